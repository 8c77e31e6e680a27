"""How time and memory grow with the images: python tests/scale.py

Makes 10,000, 100,000 and 1,000,000 images of 28 x 28 (those of MNIST, moved about), trains on them
for one epoch, and screens them, three times in turn; beside them, the main job on MNIST itself.
Prints medians of whole commands. Takes ten minutes, 2 GB of memory and 1 GB of disk.
"""

import collections
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10_000, 100_000, 1_000_000)

# Of a child process; its ru_maxrss would be no less than that of its parent.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024  # MiB
"""


def images(n):
    """(n, 28, 28) bytes: MNIST's training images, each moved by up to 3 pixels both ways."""
    import autoencoder as ae

    rng, of_mnist = np.random.default_rng(0), ae.read_data_sets().train.pixels.reshape(-1, 28, 28)
    moved = np.empty((n, 28, 28), np.uint8)
    for i in range(n):
        moved[i] = np.roll(of_mnist[i % len(of_mnist)], rng.integers(-3, 4, 2), (0, 1))
    return moved


def measured(*arguments):
    """Runs the script. -> seconds, MiB at its peak"""
    code = PEAK + (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(peak())"
    )
    command = [sys.executable, "-c", code, ROOT / "autoencoder.py", *arguments]
    begin = time.perf_counter()
    run = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, float(run.stdout.split()[-1])


def main():
    sys.path.insert(0, str(ROOT))
    found = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            np.save(Path(folder, f"{n}.npy"), images(n))
        for _ in range(3):
            found["MNIST"].append(measured("--epoch_n", 1, "--logdir", Path(folder, "run")))
            for n in SIZES:
                path, to = Path(folder, f"{n}.npy"), ["--logdir", Path(folder, f"run{n}")]
                found["train", n].append(measured("--data_dir", path, "--epoch_n", 1, *to))
                found["detect", n].append(measured("detect", path, *to))
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds, peak = np.median(found["MNIST"], axis=0)
    print(f"the main job, one epoch: {seconds:.1f} s, {peak:.0f} MiB")
    for command in ("train", "detect"):
        print(
            f"{command}:  images  MiB of bytes  seconds  µs for each further image  MiB at the peak"
        )
        earlier = None
        for n in SIZES:
            seconds, peak = np.median(found[command, n], axis=0)
            each = f"{1e6 * (seconds - earlier[0]) / (n - earlier[1]):.1f}" if earlier else ""
            print(f"{n:15} {n * 784 / 2**20:13.0f} {seconds:8.1f} {each:>26} {peak:16.0f}")
            earlier = seconds, n


if __name__ == "__main__":
    main()
