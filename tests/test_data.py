"""The data: what read_data_sets answers, and what it says of files that are not right."""

import gzip
import hashlib
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, idx, png, score_of, shell, tried

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = ae.MNIST


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
    assert mnist.train.images[0].sum() == pytest.approx(seed["first_training_image_sum"], rel=1e-6)
    assert mnist.validation.images[0].sum() == pytest.approx(
        seed["first_validation_image_sum"], rel=1e-6
    )


def test_committed_files_are_mnist():
    readme = (ROOT / "MNIST_data" / "README.md").read_text()
    for name in ae.MNIST:
        content = gzip.decompress((ROOT / "MNIST_data" / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == ae.MNIST[name]
        assert ae.MNIST[name] in readme and hashlib.md5(content).hexdigest() in readme


def test_one_hot(small_dir):
    labels = ae.read_data_sets(small_dir).test.labels
    one_hot = ae.read_data_sets(small_dir, one_hot=True).test.labels
    assert one_hot.shape == (100, 10)
    assert all(row[label] == 1 and row.sum() == 1 for row, label in zip(one_hot, labels))


def test_plain_files_are_read_as_well(small_dir):
    packed = ae.read_data_sets(small_dir)
    for path in small_dir.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = ae.read_data_sets(small_dir)
    assert all(np.array_equal(a, b) for p, q in zip(packed, plain) for a, b in zip(p, q))


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


UNPACKED = idx(np.zeros((327, 4, 4), np.uint8))
FAULTS = {
    "truncated archive": lambda content: content[: len(content) // 2],
    "corrupt archive": flip_a_bit,
    "not even a header": lambda content: b"",
    "a web page": lambda content: b"<html>403 Forbidden</html>",
    "labels, not images": lambda content: idx(np.zeros(327, np.uint8)),
    "truncated": lambda content: UNPACKED[:-1],
    "too long": lambda content: UNPACKED + b"\0",
    "header cut short": lambda content: UNPACKED[:9],
    "no images": lambda content: idx(np.zeros((0, 4, 4), np.uint8)),
    "other count than labels": lambda content: idx(np.zeros((326, 4, 4), np.uint8)),
    "other size than test images": lambda content: idx(np.zeros((327, 5, 5), np.uint8)),
    "not square": lambda content: idx(np.zeros((327, 2, 8), np.uint8)),
    "too few to validate": lambda content: idx(np.zeros((11, 4, 4), np.uint8)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_named_and_left_as_it_is(small_dir, fault):
    path = small_dir / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(FAULTS[fault](path.read_bytes()))
    if fault == "too few to validate":
        labels = np.zeros(11, np.uint8)
        (small_dir / f"{TRAIN_LABELS}.gz").write_bytes(idx(labels))
    before = files(small_dir)
    with pytest.raises(ae.AutoEncoderError) as error:
        ae.read_data_sets(small_dir)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert files(small_dir) == before


def test_labels_that_one_hot_cannot_take(small_dir):
    (small_dir / TEST_LABELS).write_bytes(idx(np.full(100, 10, np.uint8)))
    with pytest.raises(ae.AutoEncoderError, match=f"{TEST_LABELS} holds labels above 9"):
        ae.read_data_sets(small_dir, one_hot=True)


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ae.AutoEncoderError, match="is not an IDX file of images"):
        ae.read_data_sets(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# ---- A mirror on loopback ----


@pytest.fixture
def mirrors(monkeypatch):
    """Serves what is put into `pages` (path: content); ae.MIRRORS are its /first/ and /second/."""
    pages, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content, promised = pages.get(self.path, (None, 0))
            self.send_response(200 if content is not None else 403)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(ae, "MIRRORS", (f"{address}/first/", f"{address}/second/"))
    yield pages, asked
    server.shutdown()
    server.server_close()


def serve(pages, mirror, name, content, missing=0):
    pages[f"/{mirror}/{name}.gz"] = (content, len(content) + missing)


@pytest.fixture
def data_dir_without_test_labels(tmp_path):
    for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES):
        shutil.copy(ROOT / "MNIST_data" / f"{name}.gz", tmp_path)
    return tmp_path


def real(name):
    return (ROOT / "MNIST_data" / f"{name}.gz").read_bytes()


def test_a_missing_file_is_fetched(mirrors, data_dir_without_test_labels, mnist, capsys):
    pages, asked = mirrors
    serve(pages, "first", TEST_LABELS, real(TEST_LABELS))
    data = ae.read_data_sets(data_dir_without_test_labels)
    assert np.array_equal(data.test.labels, mnist.test.labels)
    assert asked == [f"/first/{TEST_LABELS}.gz"]
    assert "100%" in capsys.readouterr().err
    ae.read_data_sets(data_dir_without_test_labels)
    assert len(asked) == 1


BAD_ANSWERS = {
    "refused": None,
    "cut short": (real(TEST_LABELS)[:-100], 100),
    "half an archive": (real(TEST_LABELS)[:-100], 0),
    "other content": (real(TRAIN_LABELS), 0),
    "not an archive": (b"<html>hello</html>", 0),
    "empty": (b"", 0),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_the_second_mirror_helps_out(mirrors, data_dir_without_test_labels, answer):
    pages, asked = mirrors
    if BAD_ANSWERS[answer]:
        content, missing = BAD_ANSWERS[answer]
        serve(pages, "first", TEST_LABELS, content, missing)
    serve(pages, "second", TEST_LABELS, real(TEST_LABELS))
    path = ae.fetch(TEST_LABELS, data_dir_without_test_labels)
    assert asked == [f"/first/{TEST_LABELS}.gz", f"/second/{TEST_LABELS}.gz"]
    assert path.read_bytes() == real(TEST_LABELS)


def test_no_mirror_has_it(mirrors, data_dir_without_test_labels):
    pages, _ = mirrors
    serve(pages, "first", TEST_LABELS, real(TRAIN_LABELS))
    before = files(data_dir_without_test_labels)
    with pytest.raises(ae.AutoEncoderError) as error:
        ae.read_data_sets(data_dir_without_test_labels)
    for words in (f"{TEST_LABELS}.gz is not in", "not MNIST's", "403", "put it there"):
        assert words in str(error.value)
    assert files(data_dir_without_test_labels) == before


def test_mnist_is_not_mixed_into_another_data_set(mirrors, small_dir):
    pages, asked = mirrors
    serve(pages, "first", TEST_LABELS, real(TEST_LABELS))
    (small_dir / f"{TEST_LABELS}.gz").unlink()
    with pytest.raises(ae.AutoEncoderError, match="test labels are missing from"):
        ae.read_data_sets(small_dir)
    assert asked == []


# ---- A user's own data ----


def small_images(n, kind=np.uint8):
    """n images of 4 x 4, each of another sum; and labels, the sum modulo 26."""
    images = np.random.RandomState(0).randint(0, 256, (n, 4, 4)).astype(np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(n) // 256, np.arange(n) % 256
    return images.astype(kind), np.uint8(number_of(images.reshape(n, 16)) % 26)


def number_of(pixels):
    return 256 * pixels[:, 0].astype(int) + pixels[:, 1]


def write_idx_set(folder, prefix, n, test_n, test="test"):
    """IDX files with the names that EMNIST has."""
    (images, labels), (test_images, test_labels) = small_images(n), small_images(test_n)
    for part, x, y in (("train", images, labels), (test, test_images, test_labels)):
        (folder / f"{prefix}{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
        (folder / f"{prefix}{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y)))


def check_parts(data, sizes):
    assert [len(part.pixels) for part in data] == sizes
    for part in data:
        assert part.pixels.shape[1] == 16
        if part.labels is not None:  # they still belong together
            assert np.array_equal(part.labels, number_of(part.pixels) % 26)


def test_emnists_names_and_one_set_of_several(tmp_path):
    write_idx_set(tmp_path, "emnist-letters-", 120, 30)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97")
    check_parts(ae.read_data_sets(tmp_path), [110, 10, 30])
    write_idx_set(tmp_path, "emnist-digits-", 240, 60)
    with pytest.raises(
        ae.AutoEncoderError, match="several data sets: name one, as .*emnist-letters"
    ):
        ae.read_data_sets(tmp_path)
    check_parts(ae.read_data_sets(tmp_path / "emnist-letters"), [110, 10, 30])
    check_parts(ae.read_data_sets(tmp_path / "emnist-digits"), [220, 20, 60])
    with pytest.raises(
        ae.AutoEncoderError, match="no .*leters, only emnist-digits, emnist-letters$"
    ):
        ae.read_data_sets(tmp_path / "emnist-leters")


def test_labels_may_be_absent(tmp_path):
    write_idx_set(tmp_path, "", 120, 30, "t10k")
    labelled = ae.read_data_sets(tmp_path)
    for path in tmp_path.glob("*labels*"):
        path.unlink()
    data = ae.read_data_sets(tmp_path, one_hot=True)
    check_parts(data, [110, 10, 30])
    assert [part.labels for part in data] == [None] * 3
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(data, labelled))


@pytest.mark.parametrize("kind", ["idx", "labelled idx", "npy", "npz", "pngs"])
def test_without_test_images_some_are_drawn(tmp_path, kind):
    (images, labels), n = small_images(1000), 1000
    path = tmp_path / "images.npy"
    if "idx" in kind:
        path = tmp_path
        (path / "train-images-idx3-ubyte").write_bytes(idx(images))
        if kind == "labelled idx":
            (path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    elif kind == "npy":
        np.save(path, images)
    elif kind == "npz":
        path = tmp_path / "images.npz"
        np.savez_compressed(path, anything=images)
    else:
        path = tmp_path / "pngs"
        path.mkdir()
        for i, pixels in enumerate(images):
            png(path / f"{i:04d}.png", pixels)
    data, again = ae.read_data_sets(path), ae.read_data_sets(path)
    check_parts(data, [n - 142 - 71, 71, 142])
    assert (data.train.labels is None) == (kind != "labelled idx")
    numbers = [number_of(part.pixels) for part in data]
    assert sorted(np.concatenate(numbers)) == list(range(n))  # each image once
    for drawn in numbers[1:]:  # from everywhere: they may be sorted by their kind
        assert abs(drawn.mean() - n / 2) < 4 * n / 12**0.5 / len(drawn) ** 0.5
        assert not np.array_equal(drawn, np.sort(drawn))
    for a, b in zip(data, again):
        assert np.array_equal(a.pixels, b.pixels)
    if kind == "npy":  # in place
        assert data.train.pixels.base is data.test.pixels.base is not None
    before = np.load(path) if kind == "npy" else images
    assert np.array_equal(before, images)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
def test_arrays_with_keras_names(tmp_path, kind, labelled):
    (images, labels), (test_images, test_labels) = small_images(120, kind), small_images(30, kind)
    scale = 255 if kind == np.float32 else 1
    arrays = {"x_train": images / scale if scale > 1 else images, "x_test": test_images[..., None]}
    arrays["x_test"] = arrays["x_test"] / scale if scale > 1 else arrays["x_test"]
    if labelled:
        arrays |= {"y_train": labels.astype(np.int64), "y_test": test_labels[:, None]}
    np.savez(tmp_path / "set.npz", **arrays)
    (tmp_path / "folder").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    for path in (tmp_path / "set.npz", tmp_path / "folder"):
        data = ae.read_data_sets(path)
        assert data.train.pixels.dtype == (
            np.uint8 if np.issubdtype(kind, np.integer) else np.float32
        )
        expected = images.reshape(120, 16) / 255
        np.testing.assert_allclose(data.validation.images, expected[:10], rtol=1e-6)
        np.testing.assert_allclose(data.train.images, expected[10:], rtol=1e-6)
        np.testing.assert_allclose(data.test.images, test_images.reshape(30, 16) / 255, rtol=1e-6)
        if labelled:
            assert np.array_equal(data.train.labels, labels[10:])
            assert np.array_equal(data.test.labels, test_labels)
        else:
            assert data.train.labels is data.test.labels is None


IMAGES, LABELS = small_images(60)
FAULTY = {
    "nothing": ({}, "must hold one array, or x_train, not none"),
    "other names": ({"a": IMAGES, "b": IMAGES}, "must hold one array, or x_train, not a, b"),
    "labels alone": ({"y_train": LABELS, "y_test": LABELS}, "or x_train, not y_t"),
    "no test labels": (
        {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "test labels are missing from"),
    "no test images": (
        {"x_train": IMAGES, "y_train": LABELS, "y_test": LABELS}, "test images are missing from"),
    "no training labels": (
        {"x_train": IMAGES, "x_test": IMAGES, "y_test": LABELS}, "training labels are missing from"),
    "too few labels": (
        {"x_train": IMAGES, "y_train": LABELS[1:]}, "holds 60 images, but .*: y_train 59 labels"),
    "labels that are none": ({"x_train": IMAGES, "y_train": LABELS / 2}, "must hold a whole number"),
    "one-hot labels": ({"x_train": IMAGES, "y_train": np.eye(60)}, "must hold a whole number"),
    "other sizes": ({"x_train": IMAGES, "x_test": IMAGES[:, :2, :2]}, "images of different sizes"),
    "colour": ({"x_train": np.zeros((9, 4, 4, 3))}, "is 9 x 4 x 4 x 3: it must hold images of one sq"),
    "not square": ({"x_train": IMAGES.reshape(60, 2, 8)}, "is 60 x 2 x 8: "),
    "out of range": ({"x_train": IMAGES + 256.0}, "holds values from 256 to "),
    "too few": ({"x_train": IMAGES[:6]}, "holds 6 images: at least 14 are needed"),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind, fault",
    # An empty folder is no fault: MNIST is fetched into it.
    [("npz", fault) for fault in FAULTY] + [("folder", fault) for fault in list(FAULTY)[1:]],
)
def test_faulty_arrays_are_one_line(tmp_path, kind, fault):
    arrays, words = FAULTY[fault]
    path = tmp_path / "set.npz"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        path = tmp_path / "folder"
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    before = files(tmp_path)
    with pytest.raises(ae.AutoEncoderError, match=words) as error:
        ae.read_data_sets(path)
    tried["bad inputs refused"] += 1
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert files(tmp_path) == before


def test_pngs_of_different_sizes_and_a_folder_of_other_things(tmp_path):
    png(tmp_path / "a.png", IMAGES[0])
    png(tmp_path / "b.png", IMAGES[0, :2, :2])
    with pytest.raises(ae.AutoEncoderError, match="b.png is 2 x 2: it must hold images of 4 x 4"):
        ae.read_data_sets(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ae.AutoEncoderError, match="photos holds no images: no IDX files, no .npy"):
        ae.read_data_sets(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["photo.jpg"]


def test_a_folder_that_is_not_there_is_not_made(mirrors, tmp_path):
    with pytest.raises(ae.AutoEncoderError, match="there is no .*fashon$"):
        ae.read_data_sets(tmp_path / "fashon")
    assert not (tmp_path / "fashon").exists() and mirrors[1] == []


@pytest.mark.parametrize("kind", ["npy", "keras", "pngs", "unlabelled idx", "emnist"])
def test_own_data_train_and_are_screened(tmp_path, capfd, kind):
    images, labels = small_images(600)
    path = tmp_path / "data"
    path.mkdir()
    if kind == "npy":
        np.save(path / "images.npy", images)  # one array in a folder
    elif kind == "keras":
        path = tmp_path / "data.npz"
        arrays = {
            "x_train": images / 255,
            "y_train": labels,
            "x_test": images / 255,
            "y_test": labels,
        }
        np.savez(path, **arrays)
    elif kind == "pngs":
        for i, pixels in enumerate(images):
            png(path / f"{i}.png", pixels)
    else:
        write_idx_set(path, "emnist-letters-", 600, 100)
        if kind == "emnist":
            write_idx_set(path, "emnist-digits-", 600, 100)
            path = path / "emnist-letters"
        else:
            for labels_path in path.glob("*labels*"):
                labels_path.unlink()
    net = [
        "--enc_n",
        "8",
        "--Z_n",
        "3",
        "--dec_n",
        "8",
        "--epoch_n",
        "2",
        "--Z_activation",
        "linear",
    ]
    folders = ["--data_dir", str(path), "--logdir", str(tmp_path / "run")]
    before = files(tmp_path)
    assert ae.main([*net, *folders]) == 0
    out, err = capfd.readouterr()
    sizes = {"keras": "550 training, 50 validation, 600", "npy": "473 training, 42 validation, 85"}
    sizes["pngs"], idx_sizes = sizes["npy"], "550 training, 50 validation, 100"
    assert err == "" and out.startswith(
        f"data: {sizes.get(kind, idx_sizes)} test images of 4 x 4\n"
    )
    assert ae.newest_checkpoint(tmp_path / "run").hp.X_n == 16
    test_score = re.search("^score: .*$", out, re.M)[0]
    assert ae.main(["evaluate", *folders]) == 0
    evaluated = capfd.readouterr().out
    assert test_score in evaluated and "other images" not in evaluated
    other = tmp_path / "other.npy"
    np.save(other, images[::-1])
    assert ae.main(["evaluate", "--data_dir", str(other), *folders[2:]]) == 0
    assert "run was trained on other images than these\n" in capfd.readouterr().out
    np.save(tmp_path / "screened.npy", images)
    assert ae.main(["detect", str(tmp_path / "screened.npy"), *folders[2:]]) == 0
    labelled = kind in ("keras", "emnist")
    head = (tmp_path / "run" / "test" / "labels.tsv").read_text().splitlines()[0]
    assert head == ("label\tloss" if labelled else "image\tloss")
    assert {path: (path.read_bytes()) for path in before} == before
    if not labelled:
        for command in (["compare"], ["anomaly"], ["anomaly", "--experiment", "one-abnormal"]):
            capfd.readouterr()
            assert ae.main([*command, *net, *folders[:2], "--logdir", str(tmp_path / "no")]) == 2
            said = "autoencoder.py: error: the images have no labels, and this needs them\n"
            assert capfd.readouterr().err == said
        assert not (tmp_path / "no").exists()


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
