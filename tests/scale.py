"""How time and memory grow with the images: python tests/scale.py

Makes 10,000, 100,000 and 1,000,000 images of 28 x 28 (those of MNIST, moved about), trains on them
for one epoch, and screens them, each in a process of its own. Needs 1.6 GB of disk and of memory,
and about eight minutes on two cores.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def images(n):
    """(n, 28, 28) bytes: MNIST's training images, each moved by up to 3 pixels in both directions."""
    import autoencoder as ae

    rng, of_mnist = np.random.default_rng(0), ae.read_data_sets().train.pixels.reshape(-1, 28, 28)
    moved = np.empty((n, 28, 28), np.uint8)
    for i in range(n):
        moved[i] = np.roll(of_mnist[i % len(of_mnist)], rng.integers(-3, 4, 2), (0, 1))
    return moved


def measured(*arguments):
    """Runs the script. -> seconds, MiB at its peak"""
    code = (
        "import resource, runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    code = f"import sys; sys.argv = sys.argv[1:]\n{code}"
    command = [sys.executable, "-c", code, ROOT / "autoencoder.py", *arguments]
    begin = time.perf_counter()
    run = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, float(run.stdout.split()[-1])


def main():
    sys.path.insert(0, str(ROOT))
    print("images     bytes    train: s  µs an image  MiB    detect: s  µs an image  MiB")
    with tempfile.TemporaryDirectory() as folder:
        for n in (10_000, 100_000, 1_000_000):
            path, logdir = Path(folder, f"{n}.npy"), Path(folder, "run")
            np.save(path, images(n))
            train = measured("--data_dir", path, "--epoch_n", 1, "--logdir", logdir)
            detect = measured("detect", path, "--logdir", logdir)
            print(n, path.stat().st_size // 2**20, train, detect, flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
