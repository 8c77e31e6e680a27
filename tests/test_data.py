"""read_data_sets: what it reads, and what it refuses."""

import gzip
import re

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
NAMES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in KINDS]


def test_split_and_values_are_the_tutorials(mnist):
    archives = [(ROOT / "MNIST_data" / f"{name}.gz").read_bytes() for name in NAMES]
    train_images, train_labels, test_images, test_labels = map(gzip.decompress, archives)
    pixels = np.frombuffer(train_images, np.uint8)[16:].reshape(60000, 784)
    assert [part.images.shape for part in mnist] == [(55000, 784), (5000, 784), (10000, 784)]
    test_pixels = np.frombuffer(test_images, np.uint8)[16:].reshape(10000, 784)
    for part, expected in zip(mnist, (pixels[5000:], pixels[:5000], test_pixels)):
        assert part.images.dtype == np.float32
        # As TensorFlow 1 read them: multiplied by 1 / 255 in float32.
        assert np.array_equal(part.images, expected * np.float32(1 / 255))
    assert bytes(mnist.validation.labels) + bytes(mnist.train.labels) == train_labels[8:]
    assert bytes(mnist.test.labels) == test_labels[8:]


def test_one_hot_labels_height_and_width_and_a_file_without_gzip(small_dir):
    flat = ae.read_data_sets(small_dir)
    archive = small_dir / f"{NAMES[1]}.gz"
    archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    archive.unlink()
    data = ae.read_data_sets(small_dir, one_hot=True, reshape=False)
    for part, expected in zip(data, flat):
        assert np.array_equal(part.labels, expected.labels[:, None] == np.arange(10))
        assert np.array_equal(part.images, expected.images.reshape(-1, 4, 4, 1))


def test_next_batch_gives_each_image_once_an_epoch():
    n, batch_size = 110, 25  # four batches and a part of the fifth
    data = ae.DataSet(np.arange(n)[:, None], 7 * np.arange(n))
    batches = [data.next_batch(batch_size) for _ in range(9)]
    assert all(len(images) == len(labels) == batch_size for images, labels in batches)
    numbers = np.concatenate([images[:, 0] for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    assert np.array_equal(labels, 7 * numbers)
    first, second = numbers[:n].tolist(), numbers[n : 2 * n].tolist()
    assert sorted(first) == sorted(second) == list(range(n))
    assert sorted(first) != first != second
    data = ae.DataSet(data.images, data.labels)
    assert data.next_batch(3, shuffle=False)[1].tolist() == [0, 7, 14]


def test_arguments_and_results_are_those_of_tensorflow_1(small_dir):
    # train_dir, fake_data, one_hot, dtype, reshape, validation_size, seed, source_url
    sets = [
        ae.read_data_sets(small_dir, False, True, np.float32, True, 50, s, "") for s in (1, 1, 2)
    ]
    orders = []
    for train, validation, test in sets:
        shapes = [part.labels.shape for part in (train, validation, test)]
        assert shapes == [(277, 10), (50, 10), (100, 10)]
        completed = []
        for _ in range(6):
            images, _ = train.next_batch(138, False)
            completed.append(train.epochs_completed)
        assert completed == [0, 0, 1, 1, 2, 2]  # by the images 277 and 554 of 828
        orders.append(images.tolist())
    assert orders[0] == orders[1] != orders[2]
    with pytest.raises(ae.AutoEncoderError, match="fake_data is not supported"):
        ae.read_data_sets(small_dir, True)
    with pytest.raises(ae.AutoEncoderError, match="not as tf.uint8"):
        ae.read_data_sets(small_dir, dtype=ae.tf.uint8)


RS = np.random.RandomState(0)
BYTES = RS.randint(0, 256, (47, 4, 4), np.uint8)
BYTES[0, 0, :2] = 0, 255
BITS = RS.randint(0, 2, (47, 4, 4))
LABELS = RS.randint(0, 26, 47)
ACCEPTED = {
    "int32 with a last axis": (BYTES.astype(np.int32)[..., None], BYTES / 255),
    "flat float64": (BYTES.reshape(47, 16) / 255, BYTES / 255),
    "bool": (BITS.astype(bool), BITS),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_arrays_of_a_npz_file(tmp_path, kind):
    images, expected = ACCEPTED[kind]
    path = tmp_path / "set.npz"
    np.savez(path, x_train=images, y_train=LABELS[:, None], x_test=images[:5])
    data = ae.read_data_sets(path)
    assert len(data.validation.labels) == 3  # 47 // 12
    for part, rows in zip(data, (slice(3, None), slice(3), slice(5))):
        assert part.images.dtype == np.float32
        np.testing.assert_allclose(part.images, expected[rows].reshape(-1, 16), rtol=1e-6)
        assert part is data.test or np.array_equal(part.labels, LABELS[rows])
    assert data.test.labels is None


def refusal(path):
    """The message with which read_data_sets refuses a path."""
    with pytest.raises(ae.AutoEncoderError, match=re.escape(str(path))) as error:
        ae.read_data_sets(path)
    return str(error.value)


REFUSED_ARRAYS = {
    "floats to 255": ("x_train", BYTES.astype(np.float32), "training images .*0.0 to 255.0"),
    "NaN": ("x_test", np.full((5, 16), np.nan), "test images .*nan to nan"),
    "bits as integers": ("x_train", BITS, "training images .*booleans"),
    "colour": ("x_train", np.zeros((47, 4, 4, 3)), r"training images .* \(47, 4, 4, 3\)"),
    "not square": ("x_test", BYTES.reshape(47, 2, 8), "test images .* 2 x 8"),
    "other size": ("x_test", BYTES[:, :3, :3], "differ in size"),
    "too few": ("x_train", BYTES[:11], r"training images: 11 integer labels .* \(47,\)"),
}


@pytest.mark.parametrize("kind", REFUSED_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(tmp_path, kind):
    name, array, message = REFUSED_ARRAYS[kind]
    arrays = {"x_train": BYTES, "y_train": LABELS, "x_test": BYTES, "y_test": LABELS}
    np.savez(tmp_path / "set.npz", **(arrays | {name: array}))
    assert re.search(message, refusal(tmp_path / "set.npz"))


def test_a_npz_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "set.npz"
    assert "No such file" in refusal(path)
    np.savez(path, x_train=BYTES, x_test=BYTES)
    path.write_bytes(path.read_bytes()[:900])
    assert "cannot be read" in refusal(path)


def test_an_idx_file_that_is_damaged_or_missing_is_named(small_dir):
    path = small_dir / f"{NAMES[0]}.gz"
    archive = path.read_bytes()
    corrupt = archive[:-2000] + b"\xff" + archive[-1999:]
    not_of_bytes = gzip.compress(b"\0\0\x0d" + gzip.decompress(archive)[3:])
    for damaged in (archive[:2000], corrupt, b"<html>403 Forbidden</html>", not_of_bytes):
        path.write_bytes(damaged)
        assert f"{path} cannot be read" in refusal(small_dir)
    path.unlink()
    assert str(ROOT / "MNIST_data") in refusal(small_dir)  # where MNIST is
