"""What TensorBoard is given: read back from the files, and seen in a browser."""

import dataclasses
import io
import json
import re
import sys
import time
import urllib.request

import matplotlib.image
import numpy as np
import pytest
from tensorboard.util.tensor_util import make_ndarray

import autoencoder as ae
from conftest import (
    files,
    free_port,
    needs_browser,
    score_of,
    server,
    small_files,
)

tf = ae.tf


def events(folder):
    """The graph, {tag: RunMetadata}, and {tag: [(step, value)]} of the event files of a folder."""
    graph, metadata, values = None, {}, {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in tf.train.summary_iterator(str(path)):
            if event.graph_def:
                graph = tf.GraphDef.FromString(event.graph_def)
            if event.HasField("tagged_run_metadata"):
                tagged = event.tagged_run_metadata
                metadata[tagged.tag] = tf.RunMetadata.FromString(tagged.run_metadata)
            for value in event.summary.value:
                values.setdefault(value.tag, []).append((event.step, value))
    return graph, metadata, values


def of_kind(values, plugin):
    """{tag: [(step, array)]} of what is for one of TensorBoard's plugins."""
    return {
        tag: [(step, make_ndarray(value.tensor)) for step, value in of_tag]
        for tag, of_tag in values.items()
        if of_tag[0][1].metadata.plugin_data.plugin_name == plugin
    }


def scalars(values):
    return {
        tag: [(step, float(value)) for step, value in of_tag]
        for tag, of_tag in of_kind(values, "scalars").items()
    }


class Run:
    """A small training run, and all that it is expected to have written."""

    def __init__(self, hp, data, logdir):
        self.hp, self.data, self.logdir = hp, data, logdir
        self.g = ae.build(hp)
        with ae.start(self.g) as sess:
            self.history = ae.train(sess, self.g, data, logdir)
            self.score = ae.evaluate(sess, self.g, data.test.images)
            ae.write_test(sess, self.g, data.test, self.score, logdir)
            with self.g.X.graph.as_default():
                weights = tf.trainable_variables()
            self.weights = {v.op.name: value for v, value in zip(weights, sess.run(weights))}
            images = {part: getattr(data, part).images for part in ("validation", "test")}
            self.Z = {part: sess.run(self.g.Z, {self.g.X: X}) for part, X in images.items()}
            self.G = {part: sess.run(self.g.G, {self.g.X: X}) for part, X in images.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    hp = ae.HParams(X_n=16, enc_n=(8, 6), Z_n=3, dec_n=(6, 8), epoch_n=3)
    data = ae.read_data_sets(small_files(tmp_path_factory.mktemp("data")))
    return Run(hp, data, tmp_path_factory.mktemp("logs") / "run")


# ---- Read back ----


def test_the_graph_is_the_tutorials_picture(small):
    graph, _, _ = events(small.logdir / "train")
    nodes = {node.name for node in graph.node}
    operations = {operation.name for operation in small.g.X.graph.get_operations()}
    assert nodes == {name for name in operations if not name.startswith(("steps/", "save"))}
    assert {name.split("/")[0] for name in nodes} == {
        "X", "Encoder", "Z", "Decoder", "G", "loss", "training", "init",
    }  # fmt: skip
    for scope in ("Encoder", "Decoder"):
        inside = {name.split("/")[1] for name in nodes if name.startswith(f"{scope}/")}
        assert inside == {"Layer01", "Layer02"}


def test_time_and_memory_of_one_step(small):
    _, metadata, _ = events(small.logdir / "train")
    (trace,) = metadata.values()
    stats = {node.node_name: node for of in trace.step_stats.dev_stats for node in of.node_stats}
    forward = [f"{scope}/MatMul" for scope in ("Encoder/Layer01", "Encoder/Layer02", "Z",
                                               "Decoder/Layer01", "Decoder/Layer02", "G")]  # fmt: skip
    for name, n in zip(forward, (8, 6, 3, 6, 8, 16)):
        (output,) = stats[name].output
        allocated = output.tensor_description.allocation_description.requested_bytes
        assert allocated == small.hp.batch_size * n * 4  # float32
        assert stats[name].all_end_rel_micros >= 0
    assert {"G/Sigmoid", "loss/L2Loss"} < set(stats)
    assert any("Adam" in name for name in stats)


def test_scalars_have_a_step_for_each_epoch(small):
    of = {run: scalars(events(small.logdir / run)[2]) for run in ("train", "validation", "test")}
    assert of["train"] == {
        "loss": [(e.epoch, pytest.approx(e.loss)) for e in small.history],
        "training/learning rate": [(e, pytest.approx(0.001)) for e in (1, 2, 3)],
    }
    assert of["validation"] == {
        "loss": [(e.epoch, pytest.approx(e.validation_loss)) for e in small.history],
        "training/live latents": [(e.epoch, e.live) for e in small.history],
    }
    assert of["test"] == {"loss": [(3, pytest.approx(small.score.score))]}


def test_histograms_are_of_the_weights_and_of_Z(small):
    of_Z = {"training/Z": small.Z["validation"][:1000]}
    weights = {f"weights/{name}": array for name, array in small.weights.items()}
    for run, arrays in {"train": weights, "validation": of_Z}.items():
        histograms = of_kind(events(small.logdir / run)[2], "histograms")
        assert histograms.keys() == arrays.keys()
        for name, array in arrays.items():
            assert [step for step, _ in histograms[name]] == [1, 2, 3]
            left, right, count = histograms[name][-1][1].T
            assert count.sum() == array.size
            np.testing.assert_allclose([left[0], right[-1]], [array.min(), array.max()], rtol=1e-6)
            inside = (array >= left[7]) & (array < right[7])
            assert abs(count[7] - inside.sum()) <= 1  # which side an edge is on
    assert "Encoder/Layer01/w" in small.weights and len(small.weights) == 12


def test_images_are_ten_digits_above_their_reconstructions(small):
    values = events(small.logdir / "validation")[2]["reconstruction/X above G"]
    assert [step for step, _ in values] == [1, 2, 3]
    last = matplotlib.image.imread(io.BytesIO(values[-1][1].image.encoded_image_string))[..., 0]
    labels = small.data.validation.labels.tolist()
    chosen = [labels.index(label) for label in range(10)]
    pixels = small.data.validation.pixels[chosen].reshape(10, 4, 4)
    for i in range(10):
        above, below = np.round(255 * last[:4, 4 * i :][:, :4]), last[4:, 4 * i :][:, :4]
        np.testing.assert_allclose(above, pixels[i], atol=1)  # the colour map rounds
        G = small.G["validation"][chosen[i]].reshape(4, 4)
        np.testing.assert_allclose(below, G, atol=1 / 255)
    assert last.shape[:2] == (8, 40)


def test_the_text_says_what_ran_where(small):
    (((_, text),)) = [of_kind(events(small.logdir)[2], "text")["run"][0]]
    text = text.item().decode()
    assert f"TensorFlow {tf.__version__}, NumPy {np.__version__}" in text
    assert text.startswith("`python ") and re.search("` on (CPU, |GPU, )", text)


def test_the_projector_has_Z_labels_and_thumbnails(small):
    test, folder = small.data.test, small.logdir / "test"
    config = (folder / "projector_config.pbtxt").read_text()
    named = dict(re.findall(r'(\w+): "(.*)"', config))
    assert named == {
        "tensor_name": "Z",
        "tensor_path": "Z.tsv",
        "metadata_path": "labels.tsv",
        "image_path": "thumbnails.png",
    }
    assert re.findall(r"single_image_dim: (\d+)", config) == ["4", "4"]
    table = np.array([line.split("\t") for line in (folder / "Z.tsv").read_text().splitlines()])
    np.testing.assert_allclose(table.astype(float), small.Z["test"], rtol=1e-4)
    head, *rows = (folder / "labels.tsv").read_text().splitlines()
    labels, losses = np.array([row.split("\t") for row in rows], float).T
    assert head == "label\terror"
    np.testing.assert_array_equal(labels, test.labels)
    expected = ((small.G["test"].astype(float) - test.images) ** 2).sum(axis=1) / 2
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    sheet = np.round(255 * matplotlib.image.imread(folder / "thumbnails.png"))
    assert sheet.shape[:2] == (400, 400)  # 100 rows of 100
    for i in range(100):
        y, x = divmod(i, 100)
        thumbnail = sheet[4 * y : 4 * y + 4, 4 * x : 4 * x + 4, 0]
        np.testing.assert_allclose(255 - thumbnail, test.pixels[i].reshape(4, 4), atol=1)


# ---- Beside other files ----


def test_a_run_replaces_an_earlier_one_and_nothing_else(small, tmp_path):
    own = tmp_path / "run" / "train" / "events.out.tfevents.mine"
    own.parent.mkdir(parents=True)
    for path in (own, tmp_path / "run" / "notes.txt"):
        path.write_text("a file of the user's")
    hp = dataclasses.replace(small.hp, epoch_n=1)
    for _ in range(2):
        Run(hp, small.data, tmp_path / "run")
        assert own.read_text() == (tmp_path / "run" / "notes.txt").read_text()
        kinds = [
            path.relative_to(tmp_path / "run") for path in files(tmp_path / "run") if path != own
        ]
        kinds = [str(kind).split(".out.")[0] for kind in kinds]
        assert sorted(kinds) == [
            "checkpoints/epoch-1.data-00000-of-00001", "checkpoints/epoch-1.index",
            "checkpoints/run.json", "events", "notes.txt", "test/Z.tsv", "test/events",
            "test/labels.tsv", "test/projector_config.pbtxt", "test/thumbnails.png", "train/events",
            "validation/events",
        ]  # fmt: skip


def test_images_that_are_not_square_and_have_no_labels(small, tmp_path):
    def of(part):
        return ae.DataSet(part.pixels[:, :12], None)

    hp = dataclasses.replace(small.hp, X_n=12, epoch_n=1)
    Run(hp, ae.DataSets(*map(of, small.data)), tmp_path)
    values = events(tmp_path / "validation")[2]["reconstruction/X above G"]
    last = matplotlib.image.imread(io.BytesIO(values[0][1].image.encoded_image_string))
    assert last.shape[:2] == (2 * 3, 10 * 4)
    head, *labels = (tmp_path / "test" / "labels.tsv").read_text().splitlines()
    assert head == "image\terror"
    assert [int(line.split("\t")[0]) for line in labels] == list(range(100))


def test_curves_of_a_run_that_was_killed_between_curve_and_checkpoint(small, tmp_path, monkeypatch):
    """By TensorBoard's own server, which has two ways to read: each step once."""

    class Killed(BaseException):
        pass

    def killing(sess, g, data, logdir, history, save=ae.save):
        if len(history) == 2:
            raise Killed
        save(sess, g, data, logdir, history)

    with monkeypatch.context() as patch, ae.start(small.g) as sess, pytest.raises(Killed):
        patch.setattr(ae, "save", killing)
        ae.train(sess, small.g, small.data, tmp_path / "run")
    with ae.start(small.g) as sess:
        ae.train(sess, small.g, small.data, tmp_path / "run", resume=True)
    for fast in ("true", "false"):
        address = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={tmp_path}"]
        command += [f"--port={address.split(':')[-1]}", f"--load_fast={fast}"]
        url = f"{address}/data/plugin/scalars/scalars?tag=loss&run=run/validation"
        with server(command, url, tmp_path / "log"):
            for _ in range(100):
                shown = json.load(urllib.request.urlopen(url))
                if len(shown) >= 3:
                    break
                time.sleep(0.1)
        losses = [(e.epoch, pytest.approx(e.validation_loss)) for e in small.history]
        assert [(step, loss) for _, step, loss in shown] == losses


# ---- In a browser ----

INSIDE = """
const found = [], walk = node => {
  if (node.nodeType === 1 && node.matches(arguments[0])) found.push(node);
  for (const child of [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]) walk(child);
};
walk(document.body);
return found;
"""  # TensorBoard's pages are made of shadow roots, which selectors do not enter


class Page:
    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def open(self, tab):
        self.driver.get(f"{self.address}/#{tab}")
        self.driver.refresh()

    def find(self, selector):
        return self.driver.execute_script(INSIDE, selector)

    def texts(self, selector):
        return [" ".join(e.get_attribute("textContent").split()) for e in self.find(selector)]

    def wait(self, condition):
        from selenium.common.exceptions import StaleElementReferenceException

        for _ in range(150):
            try:
                if result := condition():
                    return result
            except StaleElementReferenceException:  # the page is being built
                pass
            time.sleep(0.2)
        raise AssertionError("the page does not show what it should")

    def settle(self, selector):
        """Waits until elements no longer move."""

        def places():
            return [str(element.rect) for element in self.find(selector)]

        def still():
            before = places()
            time.sleep(0.5)
            return before and places() == before

        self.wait(still)

    def click(self, selector, text=None, event="click"):
        """Waits for an element that is enabled, and clicks it."""

        def clicked():
            for element in self.find(selector):
                named = text in (None, " ".join(element.get_attribute("textContent").split()))
                if named and element.get_attribute("disabled") is None:
                    event_of_js = f"new MouseEvent('{event}', {{bubbles: true}})"
                    self.driver.execute_script(
                        f"arguments[0].dispatchEvent({event_of_js})", element
                    )
                    return True

        self.wait(clicked)


@pytest.fixture(scope="module")
def page(main_job, short_job, driver, tmp_path_factory):
    """TensorBoard, in a browser, on the main job and the shorter one beside it."""
    logs, port = main_job.logdir.parent, free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logs}", f"--port={port}"]
    with server(command, address, tmp_path_factory.mktemp("tensorboard") / "log"):
        yield Page(driver, address)


@pytest.mark.slow
@needs_browser
class TestInABrowser:
    @pytest.fixture(autouse=True)
    def no_errors(self, page):
        page.driver.get_log("browser")
        yield
        errors = [e for e in page.driver.get_log("browser") if e["level"] == "SEVERE"]
        assert errors == []

    def test_graphs(self, page):
        def nodes():
            names = [node.get_attribute("data-name") for node in page.find("g.node")]
            return [name for name in names if "~~" not in name]  # where edges enter a box

        page.open("graphs")
        page.click("paper-item", "main_job/train")
        scopes = ["X", "Encoder", "Z", "Decoder", "G", "loss", "training", "init"]
        page.wait(lambda: sorted(nodes()) == sorted(scopes))
        for scope in ("Encoder", "Decoder"):
            page.settle("g.node")
            page.click(f'g.node[data-name="{scope}"] .nodeshape', event="dblclick")
            scopes += [f"{scope}/Layer01", f"{scope}/Layer02"]
            page.wait(lambda: sorted(nodes()) == sorted(scopes))
        page.settle("g.node")
        page.click("paper-item", "one step of training")
        for colour, unit in (("Compute time", "[um]?s"), ("Memory", "[KM]B")):
            page.click("paper-radio-button", colour)
            page.wait(lambda: [e for e in page.texts(".domainEnd") if re.search(f"\\d {unit}$", e)])

    def test_scalars(self, page):
        page.open("scalars")
        names = {"training/live latents", "loss"}
        page.wait(lambda: names <= {name.text for name in page.find(".heading-label.name")})

        def points():
            paths = [path.get_attribute("d") or "" for path in page.find("path")]
            return [d.count("L") + 1 for d in paths if "L" in d]

        # Live latents on validation images, loss on training and on validation images: a curve of
        # ten epochs each.
        page.wait(lambda: points().count(10) >= 3)

    def test_images(self, page):
        page.open("images")
        images = page.wait(lambda: len(page.find("img")) == 2 and page.find("img"))
        page.wait(lambda: all(image.get_attribute("naturalWidth") == "280" for image in images))
        assert {image.get_attribute("naturalHeight") for image in images} == {"56"}

    def test_histograms(self, page):
        page.open("histograms")
        # Of both runs, Z, and the first six of the weights: of ten epochs and of two.
        page.wait(lambda: len(page.find("path.outline")) == 7 * 12)
        captions = page.texts("figcaption")
        for text in (
            "training/Z main_job/validation ",
            "weights/Decoder/Layer01/w main_job/train ",
        ):
            assert sum(caption.startswith(text) for caption in captions) == 1

    def test_projector(self, page):
        page.open("projector")
        for _ in range(2):  # the plugin's page is in a frame that is in a frame
            (frame,) = page.wait(lambda: page.find("iframe"))
            page.driver.switch_to.frame(frame)
        page.wait(lambda: page.texts(".numDataPoints, .dim") == ["10000", "20"])
        items = page.texts("paper-item")
        assert items[: items.index("label")] == ["main_job/test", "short_job/test", "Z 10000x20"]
        page.click("paper-item", "label 10 colors")
        loaded = page.wait(
            lambda: page.driver.execute_script(
                "return performance.getEntriesByType('resource')"
                ".filter(e => e.name.includes('sprite_image')).map(e => e.responseStatus)"
            )
        )
        assert set(loaded) == {200}
        page.driver.switch_to.default_content()

    def test_hparams(self, page, main_job):
        def cells():
            return page.texts("vaadin-grid-cell-content")

        page.open("hparams")
        page.wait(lambda: {"main_job", "short_job"} <= set(cells()))
        assert {"test.loss", "validation.loss", f"{score_of(main_job.stdout):.2f}"} <= set(cells())

    def test_text(self, page):
        page.open("text")
        page.wait(lambda: len([t for t in page.texts("p") if "autoencoder.py --" in t]) == 2)

    def test_the_first_page_opens_loss_and_reconstruction(self, page):
        page.open("timeseries")
        groups = ["Pinned", "loss", "reconstruction", "training", "weights"]
        page.wait(lambda: [g.split()[0] for g in page.texts(".group-title")] == groups)
        cards = page.wait(lambda: page.texts("card-view"))
        assert len(cards) == 3  # of the first two groups, which are open: the others are folded
