"""The data: what read_data_sets answers, and what it says of files that are not right."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, SMALL, files, idx, score_of, shell, tried, typed

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = ae.PARTS.values()


def test_splits_are_those_of_the_tutorial(mnist):
    raw = gzip.decompress((ROOT / "MNIST_data" / f"{TRAIN_IMAGES}.gz").read_bytes())
    pixels = np.frombuffer(raw, np.uint8)[16:].reshape(60000, 784)
    labels = gzip.decompress((ROOT / "MNIST_data" / f"{TRAIN_LABELS}.gz").read_bytes())[8:]
    assert [part.images.shape for part in mnist] == [(55000, 784), (5000, 784), (10000, 784)]
    assert [part.labels.shape for part in mnist] == [(55000,), (5000,), (10000,)]
    assert all(part.images.dtype == np.float32 for part in mnist)
    assert np.array_equal(np.rint(mnist.validation.images * 255), pixels[:5000])
    assert np.array_equal(np.rint(mnist.train.images * 255), pixels[5000:])
    assert bytes(mnist.validation.labels) + bytes(mnist.train.labels) == labels
    assert mnist.train.images.min() == 0 and mnist.train.images.max() == 1
    seed = json.loads((ROOT / "tests" / "seed_trajectory.json").read_text())
    for part in ("training", "validation"):
        images = mnist.train.images if part == "training" else mnist.validation.images
        assert images[0].sum() == pytest.approx(seed[f"first_{part}_image_sum"], rel=1e-6)


def test_committed_files_are_mnist():
    readme = (ROOT / "MNIST_data" / "README.md").read_text()
    for name in ae.PARTS.values():
        content = gzip.decompress((ROOT / "MNIST_data" / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() in readme
        assert hashlib.md5(content).hexdigest() in readme


def test_plain_files_are_read_as_well(small_dir):
    packed = ae.read_data_sets(small_dir)
    for path in small_dir.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = ae.read_data_sets(small_dir)
    assert all(np.array_equal(a, b) for p, q in zip(packed, plain) for a, b in zip(p, q))


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(
        ae.AutoEncoderError, match=f"there is no {tmp_path / TRAIN_IMAGES}, nor .gz$"
    ):
        ae.read_data_sets(tmp_path)
    monkeypatch.setattr(ae, "DATA_DIR", tmp_path)
    with pytest.raises(ae.AutoEncoderError, match=": git checkout MNIST_data$"):
        ae.read_data_sets(tmp_path)


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def packed(array, more=b""):
    return gzip.compress(idx(array) + more)


IMAGES = np.zeros((327, 4, 4), np.uint8)
FAULTS = {
    "truncated archive": lambda content: content[: len(content) // 2],
    "corrupt archive": flip_a_bit,
    "empty": lambda content: b"",
    "a web page": lambda content: b"<html>403 Forbidden</html>",
    "labels, not images": lambda content: packed(np.zeros(327, np.uint8)),
    "truncated": lambda content: gzip.compress(idx(IMAGES)[:-1]),
    "too long": lambda content: packed(IMAGES, b"\0"),
    "header cut short": lambda content: gzip.compress(idx(IMAGES)[:9]),
    "magic cut short": lambda content: gzip.compress(idx(IMAGES)[:3]),
    "no images": lambda content: packed(np.zeros((0, 4, 4), np.uint8)),
    "other count than labels": lambda content: packed(IMAGES[:-1]),
    "other size than test images": lambda content: packed(np.zeros((327, 5, 5), np.uint8)),
    "far from square": lambda content: packed(np.zeros((327, 2, 8), np.uint8)),
    "colour": lambda content: packed(np.zeros((327, 4, 4, 3), np.uint8)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_named_and_left_as_it_is(small_dir, fault):
    path = small_dir / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(FAULTS[fault](path.read_bytes()))
    before = files(small_dir)
    with pytest.raises(ae.AutoEncoderError) as error:
        ae.read_data_sets(small_dir)
    assert str(small_dir) in str(error.value) and "\n" not in str(error.value)
    assert files(small_dir) == before


# ---- A user's own data ----


def arrays(n=120, test_n=30):
    rs = np.random.RandomState(0)
    (x, x_test), (y, y_test) = (
        [rs.randint(0, top, (size, *shape)).astype(np.uint8) for size in (n, test_n)]
        for top, shape in ((256, (4, 4)), (10, ()))
    )
    return {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("flat", [True, False])
def test_arrays_with_keras_names(tmp_path, kind, labelled, flat):
    made = arrays()
    scale = 1 if kind == np.uint8 else 255
    given = {k: (v / scale).astype(kind) if k[0] == "x" else v for k, v in made.items()}
    if flat:
        given = {k: v.reshape(len(v), -1) if k[0] == "x" else v for k, v in given.items()}
    if not labelled:
        given = {k: v for k, v in given.items() if k[0] == "x"}
    np.savez(tmp_path / "set.npz", **given)
    data = ae.read_data_sets(tmp_path / "set.npz")
    assert [len(part.pixels) for part in data] == [110, 10, 30]
    expected = {k: v.reshape(len(v), 16) / 255 for k, v in made.items() if k[0] == "x"}
    np.testing.assert_allclose(data.validation.images, expected["x_train"][:10], rtol=1e-6)
    np.testing.assert_allclose(data.train.images, expected["x_train"][10:], rtol=1e-6)
    np.testing.assert_allclose(data.test.images, expected["x_test"], rtol=1e-6)
    assert {part.images.dtype for part in data} == {np.dtype(np.float32)}
    if labelled:
        assert np.array_equal(data.train.labels, made["y_train"][10:])
        assert np.array_equal(data.test.labels, made["y_test"])
    else:
        assert [part.labels for part in data] == [None] * 3


MADE = arrays()
FAULTY = {
    "no test images": ({"x_test": None}, "x_test"),
    "no training images": ({"x_train": None}, "x_train"),
    "too few labels": ({"y_train": MADE["y_train"][1:]}, "training images are 120, but their lab"),
    "one-hot labels": ({"y_test": np.eye(30)}, "test images are 30, but their labels .30, 30."),
    "other sizes": ({"x_test": MADE["x_test"][:, :2, :2]}, "are of different sizes"),
    "colour": (
        {"x_train": np.zeros((120, 4, 4, 3), np.uint8)},
        "must be square or .n, X_n., bytes",
    ),
    "too large values": ({"x_test": MADE["x_test"] / 2}, "floats from 0 to 1, not .* float64"),
    "no numbers": ({"x_test": np.full((30, 16), np.nan)}, "floats from 0 to 1, not .* float64"),
    "whole numbers": ({"x_train": MADE["x_train"].astype(int)}, "bytes or floats"),
    "words": ({"x_train": np.full((120, 16), "a")}, "bytes or floats"),
    "no images at all": ({"x_train": MADE["x_train"][:0]}, "must be square"),
    "a pickle": ({"x_train": np.array([{}, []], object)}, "cannot be read: .*pickle"),
    "too few to validate": ({k: MADE[k][:11] for k in ("x_train", "y_train")}, "0 of 11 images"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_npz_is_refused_in_one_line(tmp_path, capfd, fault):
    changes, words = FAULTY[fault]
    given = {name: array for name, array in (MADE | changes).items() if array is not None}
    path = tmp_path / "set.npz"
    np.savez(path, **given)
    before = files(tmp_path)
    assert typed("--data_dir", path, "--logdir", tmp_path / "run") == 2
    tried["bad inputs refused"] += 1
    error = capfd.readouterr().err
    assert error.startswith(f"autoencoder.py: error: {path}") and error.count("\n") == 1
    assert re.search(words, error)
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\3\4 torn"])
def test_a_npz_that_is_none(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(ae.AutoEncoderError, match=f"^{tmp_path}/set.npz cannot be read: "):
        ae.read_data_sets(tmp_path / "set.npz")


def test_the_main_job_on_own_data_without_labels(tmp_path, capfd):
    made = arrays()
    np.savez(tmp_path / "set.npz", x_train=made["x_train"], x_test=made["x_test"])
    job = [*SMALL, "--epoch_n", 1, "--data_dir", tmp_path / "set.npz", "--logdir", tmp_path / "run"]
    assert typed(*job) == 0
    assert "\nscore: " in capfd.readouterr().out
    assert (tmp_path / "run" / "test" / "labels.tsv").read_text().startswith("image\tloss\n0\t")


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_by_its_own_files(tmp_path):
    before = files(FASHION)
    data = ae.read_data_sets(FASHION)
    assert [part.pixels.shape for part in data] == [(55000, 784), (5000, 784), (10000, 784)]
    labels = [part.labels for part in data]
    assert np.bincount(np.concatenate(labels[:2])).tolist() == [6000] * 10
    assert np.bincount(labels[2]).tolist() == [1000] * 10
    run = shell("--data_dir", FASHION, "--logdir", tmp_path / "run", "--epoch_n", 2)
    assert (run.returncode, run.stderr) == (0, "")
    mean = data.train.images.mean(axis=0, dtype=np.float64)
    of_mean = ((data.test.images - mean) ** 2).sum() / 2 / 100
    assert score_of(run.stdout) < of_mean / 3
    assert files(FASHION) == before
