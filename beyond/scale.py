"""How time and memory grow with the images: python -m beyond.scale

Makes 10,000, 100,000 and 1,000,000 images of 28 x 28 (those of MNIST, shifted), trains on them for
one epoch, and screens them with a network that was trained on MNIST itself, three times in turn.
Prints medians of whole commands. Takes six minutes, 2 GB of memory and 2 GB of disk.
"""

import collections
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import autoencoder as ae

SIZES = (10_000, 100_000, 1_000_000)

# Of a child process; its ru_maxrss would be no less than that of its parent.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024  # MiB
"""


def images(n):
    """(n, 28, 28) bytes: MNIST's training images, each shifted by up to 3 pixels both ways."""
    rng = np.random.default_rng(0)
    mnist = ae.as_2d(ae.read_data_sets().train.pixels)
    shifted = np.empty((n, 28, 28), np.uint8)
    for i in range(n):
        shifted[i] = np.roll(mnist[i % len(mnist)], rng.integers(-3, 4, 2), (0, 1))
    return shifted


def measured(module, *arguments):
    """Runs python -m module. -> seconds, MiB at its peak"""
    code = PEAK + (
        "import runpy, sys\n"
        "try: runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
        "finally: print(peak())"
    )
    command = [sys.executable, "-c", code, module, *map(str, arguments)]
    folder, begin = Path(ae.__file__).parent, time.perf_counter()
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, float(run.stdout.split()[-1])


def main(args):
    """Measures how time and memory of training and screening grow with the number of images. Takes
    six minutes, 2 GB of memory and 2 GB of disk."""
    found, test = collections.defaultdict(list), ae.read_data_sets().test.pixels
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            np.save(Path(folder, f"{n}.npy"), images(n))
            x_train = np.load(Path(folder, f"{n}.npy"), mmap_mode="r")
            np.savez(Path(folder, f"{n}.npz"), x_train=x_train, x_test=ae.as_2d(test))
        for _ in range(3):
            for n in ("MNIST", *SIZES):
                data = ["--data_dir", Path(folder, f"{n}.npz")] if n in SIZES else []
                arguments = ["--epoch_n", 1, *data, "--logdir", Path(folder, str(n))]
                found["training", n].append(measured("autoencoder", *arguments))
            for n in SIZES:
                arguments = ["--logdir", Path(folder, "MNIST")]
                run = measured("beyond.screen", Path(folder, f"{n}.npy"), *arguments)
                found["screening", n].append(run)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds, peak = np.median(found["training", "MNIST"], axis=0)
    print(f"training on MNIST, one epoch: {seconds:.1f} s, {peak:.0f} MiB")
    for what in ("training", "screening"):
        print(
            f"{what:9}  images  MiB of bytes  seconds  µs for each further image  MiB at the peak"
        )
        earlier = None
        for n in SIZES:
            seconds, peak = np.median(found[what, n], axis=0)
            each = f"{1e6 * (seconds - earlier[0]) / (n - earlier[1]):.1f}" if earlier else ""
            print(f"{n:17} {n * 784 / 2**20:13.0f} {seconds:8.1f} {each:>26} {peak:16.0f}")
            earlier = seconds, n


if __name__ == "__main__":
    parser = ae.Parser("python -m beyond.scale", main.__doc__)
    sys.exit(ae.run_command(main, parser))
