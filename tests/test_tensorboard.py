"""What TensorBoard is given: read back by its EventAccumulator, and seen in a browser."""

import io
import re
import shutil
import time
import types

import matplotlib.image
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import autoencoder as ae
from conftest import score_of, small_files

tf = ae.tf


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs: where it is, what train returned, and what the session computes."""
    logdir = tmp_path_factory.mktemp("run")
    data = ae.read_data_sets(small_files(tmp_path_factory.mktemp("data")))
    sizes = {"X_n": 16, "enc_n": (8, 6), "Z_n": 3, "dec_n": (6, 8)}
    net = ae.build(ae.HParams(**sizes, train_n=300, epoch_n=3, schedule="linear"))
    with net.X.graph.as_default(), ae.start_session(net) as sess:
        tf.summary.scalar("ink", tf.reduce_mean(net.X))
        history = ae.train(sess, net, data, logdir)
        score = ae.evaluate(sess, net, data.test.images)
        ae.write_test(sess, net, data.test, score, logdir)
        weights = {f"weights/{w.op.name}": sess.run(w) for w in tf.trainable_variables()}
        validation_Z, validation_G = sess.run([net.Z, net.G], {net.X: data.validation.images})
        test_Z, test_G = sess.run([net.Z, net.G], {net.X: data.test.images})
    return types.SimpleNamespace(**locals())


def read(folder):
    """An EventAccumulator of all events in a folder."""
    return EventAccumulator(
        str(folder), {"tensors": 0, "scalars": 0, "images": 0, "histograms": 0}
    ).Reload()


def scalars(folder):
    """{tag: [(step, value)]}"""
    events = read(folder)
    tags = events.Tags()["scalars"]
    return {
        tag: [(e.step, pytest.approx(e.value, 1e-5)) for e in events.Scalars(tag)] for tag in tags
    }


def test_scalars_have_a_step_for_each_epoch(run):
    tag = "loss of 100 images"
    assert scalars(run.logdir / "train") == {tag: [(e.epoch, e.loss) for e in run.history]}
    first_images = np.float64(run.data.validation.images)
    assert scalars(run.logdir / "validation") == {
        tag: [(e.epoch, e.validation_loss) for e in run.history],
        "training/live latents": [(e.epoch, e.live) for e in run.history],
        "training/learning_rate": [(1, 0.001 * 6 / 9), (2, 0.001 * 3 / 9), (3, 0)],
        "ink": [(e.epoch, first_images.mean()) for e in run.history],  # the graph's own
    }
    assert scalars(run.logdir / "test") == {tag: [(3, run.score.score)]}


def test_histograms_are_those_of_numpy(run):
    assert len(run.weights) == 12
    parts = {"train": run.weights, "validation": {"training/Z": run.validation_Z}}
    for part, arrays in parts.items():
        events = read(run.logdir / part)
        for tag, array in arrays.items():
            assert [event.step for event in events.Histograms(tag)] == [1, 2, 3]
            found = events.Histograms(tag)[-1].histogram_value
            counts, edges = np.histogram(np.float64(array), 30)
            assert list(found.bucket) == counts.tolist()
            assert found.bucket_limit == pytest.approx(edges[1:])
            assert found.sum == pytest.approx(array.sum(dtype=np.float64), rel=1e-4)


def test_image_is_ten_digits_above_their_reconstructions(run):
    images = read(run.logdir / "validation").Images("reconstruction/X above G")
    assert [image.step for image in images] == [1, 2, 3]
    labels = run.data.validation.labels.tolist()
    rows = [labels.index(label) for label in range(10)]
    X, G = run.data.validation.images[rows], run.validation_G[rows]
    expected = np.vstack([np.hstack(part.reshape(10, 4, 4)) for part in (X, G)])
    found = matplotlib.image.imread(io.BytesIO(images[-1].encoded_image_string))[..., 0]
    assert np.abs(found - expected).max() <= 2 / 255  # matplotlib rounds down, twice


def test_graph_and_one_step_of_training(run):
    events = read(run.logdir / "train")
    names = [operation.name for operation in run.net.X.graph.get_operations()]
    shown = {name for name in names if not name.startswith(("check/", "compiled/", "save/"))}
    assert {node.name for node in events.Graph().node} == shown
    assert len(shown) < len(names)
    (tag,) = events.Tags()["run_metadata"]
    devices = events.RunMetadata(tag).step_stats.dev_stats
    stats = {node.node_name: node for device in devices for node in device.node_stats}
    (output,) = stats["Encoder/Layer01/Relu"].output  # oneDNN may have fused the others into it
    memory = output.tensor_description.allocation_description.requested_bytes
    assert memory == 100 * 8 * 4  # float32
    assert any("Adam" in name for name in stats)


def test_projector_files(run):
    folder = run.logdir / "test"
    config = (folder / "projector_config.pbtxt").read_text()
    assert set(re.findall(r'path: "(.*?)"', config)) == {"Z.tsv", "labels.tsv", "thumbnails.png"}
    assert re.findall(r"single_image_dim: (\d+)", config) == ["4", "4"]
    np.testing.assert_allclose(np.loadtxt(folder / "Z.tsv"), run.test_Z, rtol=1e-4)
    table = np.loadtxt(folder / "labels.tsv", skiprows=1)
    expected = ((run.test_G.astype(float) - run.data.test.images) ** 2).sum(axis=1) / 2
    np.testing.assert_allclose(table[:, 1], expected, rtol=1e-3)
    assert np.array_equal(table[:, 0], run.data.test.labels)
    sheet = matplotlib.image.imread(folder / "thumbnails.png")[..., 0]
    images = (1 - sheet).reshape(10, 4, 10, 4).swapaxes(1, 2).reshape(100, 16)
    np.testing.assert_allclose(images, run.data.test.images, atol=1.01 / 255)


# ---- In a browser --------------------------------------------------------------------------------

BROWSER_FLAGS = """headless=new no-sandbox use-angle=swiftshader enable-unsafe-swiftshader no-first-run
disable-background-networking disable-component-update window-size=1400,1000"""
TEXT = """
const parts = [];
const walk = node => {
  if (node.nodeName === "STYLE") return;
  if (node.nodeType === Node.TEXT_NODE) parts.push(node.data);
  if (node.nodeName === "IMG") parts.push(`image ${node.naturalWidth} x ${node.naturalHeight}`);
  if (node.shadowRoot) walk(node.shadowRoot);
  if (node.nodeName === "IFRAME" && node.contentDocument) walk(node.contentDocument);
  node.childNodes.forEach(walk);
};
walk(document.body);
return parts.join(" ");
"""  # TensorBoard's pages consist of shadow roots and frames, which innerText does not enter


@pytest.fixture
def driver():
    """Headless Chromium. WebGL is drawn without a GPU."""
    from selenium import webdriver

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("needs chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in BROWSER_FLAGS.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(chromedriver)) as driver:
        yield driver


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer")  # TensorBoard uses it
def test_every_tab_shows_the_main_job(main_job, driver):
    from tensorboard import program

    score = score_of(main_job.stdout)
    shapes = r"\?×784 \?×300 \?×20 \?×500 \?×784"  # on the edges between the boxes
    tabs = {
        "timeseries": [rf"main_job/test {score}\d?", "main_job/validation Step 10", "weights"],
        "graphs": ["main_job/train", "one step of training", shapes],
        "images": ["reconstruction/X above G", "step 10", "image 280 x 56"],
        "histograms": ["tag: training/Z", "tag: weights/Decoder/Layer01/w"],
        "projector": ["Z 10000x20", "Points: 10000", "Dimension: 20", "label 10 colors"],
        "hparams": ["main_job", "learning_rate", f"{score:.2f}"],
        "text": [r"python \S*autoencoder.py --logdir", ae.device(), "TensorFlow"],
    }
    server = program.TensorBoard()
    server.configure(["", "--port", "0", "--logdir", str(main_job.logdir.parent)])
    address = server.launch()
    for tab, phrases in tabs.items():
        driver.get(f"{address}#{tab}")
        driver.refresh()
        for _ in range(150):
            text = " ".join(driver.execute_script(TEXT).split())
            missing = [p for p in phrases if not re.search(rf"(?<!\S){p}(?!\S)", text)]
            if not missing:
                break
            time.sleep(0.2)
        assert missing == [], f"{tab}: {text}"
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
