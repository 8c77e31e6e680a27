"""The data: what read_data_sets answers, and what it says of files that are not right."""

import gzip
import hashlib
import http.server
import json
import shutil
import threading

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, idx

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
