"""The data: what read_data_sets answers, and what it says of files that are not right."""

import gzip
import hashlib
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, SMALL, files, idx, score_of, shell, typed

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (
    f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)


def unpacked(name):
    return gzip.decompress((ROOT / "MNIST_data" / f"{name}.gz").read_bytes())


def test_splits_are_those_of_the_tutorial(mnist):
    pixels = np.frombuffer(unpacked(TRAIN_IMAGES), np.uint8)[16:].reshape(60000, 784)
    assert [part.images.shape for part in mnist] == [(55000, 784), (5000, 784), (10000, 784)]
    assert [part.labels.shape for part in mnist] == [(55000,), (5000,), (10000,)]
    assert all(part.images.dtype == np.float32 for part in mnist)
    assert np.array_equal(np.rint(mnist.validation.images * 255), pixels[:5000])
    assert np.array_equal(np.rint(mnist.train.images * 255), pixels[5000:])
    labels = bytes(mnist.validation.labels) + bytes(mnist.train.labels)
    assert labels == unpacked(TRAIN_LABELS)[8:]
    assert bytes(mnist.test.pixels) == unpacked(TEST_IMAGES)[16:]
    assert bytes(mnist.test.labels) == unpacked(TEST_LABELS)[8:]
    assert mnist.train.images.min() == 0 and mnist.train.images.max() == 1
    seed = json.loads((ROOT / "tests" / "seed_trajectory.json").read_text())
    for part, images in (("training", mnist.train.images), ("validation", mnist.validation.images)):
        assert images[0].sum() == pytest.approx(seed[f"first_{part}_image_sum"], rel=1e-6)


def test_committed_files_are_mnist():
    readme = (ROOT / "MNIST_data" / "README.md").read_text()
    for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS):
        row = [f"`{f(unpacked(name)).hexdigest()}`" for f in (hashlib.sha256, hashlib.md5)]
        assert f"| {name} | {len(unpacked(name)):,} | {' | '.join(row)} |" in readme


def test_plain_files_are_read_as_well(small_dir):
    packed = ae.read_data_sets(small_dir)
    for path in small_dir.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = ae.read_data_sets(small_dir)
    assert all(np.array_equal(a, b) for p, q in zip(packed, plain) for a, b in zip(p, q))


def test_a_missing_file_is_named(small_dir, monkeypatch):
    (small_dir / f"{TEST_LABELS}.gz").unlink()
    said = f"there is no {small_dir / TEST_LABELS}, nor .gz"
    with pytest.raises(ae.AutoEncoderError, match=f"^{re.escape(said)}$"):
        ae.read_data_sets(small_dir)
    monkeypatch.setattr(ae, "DATA_DIR", small_dir)  # as if it were the checkout's
    with pytest.raises(ae.AutoEncoderError, match=f"^{re.escape(said)}: git checkout MNIST_data$"):
        ae.read_data_sets(small_dir)
    with pytest.raises(ae.AutoEncoderError, match="^there is no .*/fashon/train-images"):
        ae.read_data_sets(small_dir / "fashon")
    assert not (small_dir / "fashon").exists()


UNPACKED = idx(np.zeros((327, 4, 4), np.uint8))
FAULTS = {
    "truncated archive": lambda content: content[: len(content) // 2],
    "corrupt archive": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "not even a header": lambda content: b"",
    "a web page": lambda content: b"<html>403 Forbidden</html>",
    "labels, not images": lambda content: idx(np.zeros(327, np.uint8)),
    "no dimensions": lambda content: b"\0\0\x08\0" + b"x",
    "of other numbers": lambda content: b"\0\0\x0d" + UNPACKED[3:],
    "truncated": lambda content: UNPACKED[:-1],
    "too long": lambda content: UNPACKED + b"\0",
    "header cut short": lambda content: UNPACKED[:9],
    "magic cut short": lambda content: UNPACKED[:3],
    "no images": lambda content: idx(np.zeros((0, 4, 4), np.uint8)),
    "other count than labels": lambda content: idx(np.zeros((326, 4, 4), np.uint8)),
    "other size than test images": lambda content: idx(np.zeros((327, 5, 5), np.uint8)),
    "colour": lambda content: idx(np.zeros((327, 4, 4, 3), np.uint8)),
    "not square": lambda content: idx(np.zeros((327, 2, 8), np.uint8)),
}


def refused(path, folder):
    """What read_data_sets says of a faulty file: one line, and all files stay as they are."""
    before = files(folder)
    with pytest.raises(ae.AutoEncoderError) as error:
        ae.read_data_sets(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert files(folder) == before
    return str(error.value)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_named(small_dir, fault, packed):
    path = small_dir / f"{TRAIN_IMAGES}.gz"
    content = FAULTS[fault](path.read_bytes())
    if not packed:
        path.unlink()
        path = path.with_suffix("")
    elif "archive" not in fault and fault != "a web page":
        content = gzip.compress(content)
    path.write_bytes(content)
    said = refused(small_dir, small_dir)
    of_both = ("labels, not images", "no dimensions", "no images", "other", "colour", "not square")
    assert str(path) in said or fault.startswith(of_both)


# ---- A user's own data ----

RS = np.random.RandomState(0)
IMAGES, TEST = RS.randint(0, 256, (120, 4, 4), np.uint8), RS.randint(0, 256, (30, 4, 4), np.uint8)
LABELS, OF_TEST = RS.randint(0, 26, 120), RS.randint(0, 26, 30)
GOOD = {"x_train": IMAGES, "y_train": LABELS, "x_test": TEST, "y_test": OF_TEST}


@pytest.mark.parametrize("without", [[], ["y_train", "y_test"], ["y_train"]])
@pytest.mark.parametrize("shape", [(4, 4), (16,), (3, 5)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_arrays_with_keras_names(tmp_path, kind, shape, without):
    X_n = np.prod(shape)
    arrays = {name: array for name, array in GOOD.items() if name not in without}
    for name in ("x_train", "x_test"):
        images = arrays[name].reshape(-1, 16)[:, :X_n].reshape(-1, *shape)
        arrays[name] = images if kind == np.uint8 else (images / 255).astype(kind)
    np.savez(tmp_path / "set.npz", **arrays)
    data = ae.read_data_sets(tmp_path / "set.npz")
    expected = IMAGES[:10], IMAGES[10:], TEST
    for part, images in zip((data.validation, data.train, data.test), expected):
        assert part.pixels.dtype == (np.uint8 if kind == np.uint8 else np.float32)
        of_file = images.reshape(-1, 16)[:, :X_n] / 255
        np.testing.assert_allclose(part.images, of_file, rtol=1e-6)
    labels = data.validation.labels, data.train.labels, data.test.labels
    names = ("y_train", LABELS[:10]), ("y_train", LABELS[10:]), ("y_test", OF_TEST)
    for got, (name, asked) in zip(labels, names):
        assert got is None if name in without else np.array_equal(got, asked)


@pytest.mark.parametrize("n, got", [(12, 1), (47, 3), (120, 10)])
def test_the_size_of_the_validation_set(tmp_path, n, got):
    np.savez(tmp_path / "set.npz", x_train=IMAGES[:n], x_test=TEST)
    data = ae.read_data_sets(tmp_path / "set.npz")
    assert [len(part.pixels) for part in data] == [n - got, got, 30]
    assert np.array_equal(data.validation.pixels, IMAGES[:got].reshape(got, 16))


FAULTY = {
    "no training images": ({"x_train": None}, "x_train"),
    "no test images": ({"x_test": None}, "x_test"),
    "too few labels": ({"y_train": LABELS[1:]}, "training images"),
    "too many labels": ({"y_test": LABELS}, "test images"),
    "one-hot labels": ({"y_train": np.eye(120, 10)}, "training images"),
    "labels that are text": ({"y_test": OF_TEST.astype(str)}, "test images"),
    "labels that are floats": ({"y_test": OF_TEST / 2}, "test images"),
    "other sizes": ({"x_test": TEST[:, :3, :3]}, "are of different sizes"),
    "colour": ({"x_train": np.zeros((120, 4, 4, 3))}, "training images must be square or "),
    "not square": ({"x_test": TEST.reshape(30, 2, 8)}, "test images must be square or "),
    "no images": ({"x_test": TEST[:0]}, "test images must be square or "),
    "no pixels": ({"x_train": np.zeros((120, 0))}, "training images must be square or "),
    "one number": ({"x_train": np.float32(0.5)}, "training images must be square or "),
    "a row of numbers": ({"x_train": LABELS}, "training images must be square or "),
    "whole numbers": ({"x_train": IMAGES.astype(int)}, "floats from 0 to 1, not .*, int64"),
    "floats above 1": ({"x_test": TEST.astype(float)}, "floats from 0 to 1, not .*, float64"),
    "floats below 0": ({"x_test": TEST / 255 - 0.1}, "floats from 0 to 1, not .*, float64"),
    "nan": ({"x_test": np.full((30, 16), np.nan)}, "floats from 0 to 1, not .*, float64"),
    "words": ({"x_train": np.full((120, 16), "a")}, "training images must be square or "),
    "a pickle": ({"x_train": IMAGES.astype(object)}, "cannot be read: "),
    "too few to validate": (
        {"x_train": IMAGES[:11], "y_train": LABELS[:11]},
        "at least 12 training images",
    ),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faulty_arrays_are_one_line(tmp_path, fault):
    changes, words = FAULTY[fault]
    arrays = {name: array for name, array in (GOOD | changes).items() if array is not None}
    np.savez(tmp_path / "set.npz", **arrays)
    assert re.search(words, refused(tmp_path / "set.npz", tmp_path))


def test_a_npz_that_is_none(tmp_path):
    path, images = tmp_path / "set.npz", io.BytesIO()
    assert "No such file" in refused(path, tmp_path)
    np.save(images, IMAGES)
    for content in (b"", b"mine", b"PK\3\4 torn", images.getvalue(), pickle.dumps(IMAGES)):
        path.write_bytes(content)
        refused(path, tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train", "text")
        archive.writestr("x_test", "text")
    refused(path, tmp_path)


@pytest.mark.parametrize("kind", ["stored", "compressed", "idx"])
def test_a_damaged_byte_is_an_error_or_does_not_matter(tmp_path, small_dir, kind):
    path, asked = tmp_path / "set.npz", tmp_path / "set.npz"
    if kind == "idx":
        path, asked = small_dir / f"{TEST_IMAGES}.gz", small_dir
    else:
        (np.savez if kind == "stored" else np.savez_compressed)(path, **GOOD)
    good, content = ae.read_data_sets(asked), path.read_bytes()
    for at in [*range(0, 60), *range(60, len(content), 17), *range(-60, 0)]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            read = ae.read_data_sets(asked)
        except ae.AutoEncoderError as error:
            assert "\n" not in str(error)
        else:
            for (pixels, labels), (same_pixels, same_labels) in zip(read, good):
                assert np.array_equal(pixels, same_pixels)  # the name of the labels has no checksum
                assert labels is None or np.array_equal(labels, same_labels)


@pytest.mark.parametrize("labelled", [True, False])
def test_own_data_train(tmp_path, capfd, labelled):
    path, logdir = tmp_path / "data.npz", tmp_path / "run"
    labels = {name: array for name, array in GOOD.items() if labelled and name[0] == "y"}
    np.savez(path, x_train=IMAGES / 255, x_test=TEST / 255, **labels)
    before = path.read_bytes()
    assert typed(*SMALL, "--epoch_n", 1, "--data_dir", path, "--logdir", logdir) == 0
    out, err = capfd.readouterr()
    assert err == "" and "\nscore: " in out
    head, first, *_ = (logdir / "test" / "labels.tsv").read_text().splitlines()
    assert head == ("label\terror" if labelled else "image\terror")
    assert first.split("\t")[0] == (str(OF_TEST[0]) if labelled else "0")
    assert path.read_bytes() == before


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
    run = shell("--data_dir", FASHION, "--logdir", tmp_path / "run", "--epoch_n", 1)
    assert (run.returncode, run.stderr) == (0, "")
    mean = data.train.images.mean(axis=0, dtype=np.float64)
    of_mean = ((data.test.images - mean) ** 2).sum() / 2 / 100
    assert score_of(run.stdout) < of_mean / 3
    assert files(FASHION) == before
