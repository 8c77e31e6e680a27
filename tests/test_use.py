"""What was trained, used: by commands on a user's files, and exported, without this module."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import autoencoder as ae
from conftest import ROOT, files, png, shell, tried, write_kinds
from scale import PEAK

# ---- encode, decode, reconstruct ----


def run(*arguments):
    return ae.main(list(map(str, arguments)))


def images_of(folder):
    """The images in a folder of PNGs, (n, 16) in [0, 1], as matplotlib reads them; by name."""
    read = ae.matplotlib.image.imread
    return {path.name: read(path).ravel() for path in sorted(folder.iterdir())}


def test_every_kind_of_file_is_encoded_and_reconstructed(model, tmp_path, capfd):
    logdir, _ = model
    images = np.random.RandomState(1).randint(0, 256, (25, 4, 4), np.uint8)
    with ae.load_model(logdir) as (sess, g, _):
        X = images.reshape(25, 16) / 255
        Z, G = sess.run([g.Z, g.G], {g.X: X})
    for path in write_kinds(tmp_path / "kinds", images):
        codes, restored = tmp_path / f"{path.name} Z.npy", tmp_path / f"{path.name} G.npy"
        assert run("encode", path, "--logdir", logdir, "--output", codes) == 0
        assert run("reconstruct", path, "--logdir", logdir, "--output", restored) == 0
        found, made = np.load(codes), np.load(restored)
        assert (found.shape, found.dtype, made.shape) == ((25, 3), np.float32, (25, 16))
        np.testing.assert_allclose(found, Z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(made, G, rtol=1e-5)
    out, err = capfd.readouterr()
    assert err == "" and out.count("images: 25, values 0 to 255\n") == 2 * 10


def test_decoding_codes_is_reconstructing(model, tmp_path):
    logdir, _ = model
    images = np.random.RandomState(1).randint(0, 256, (1234, 16), np.uint8)  # more than a thousand
    np.save(tmp_path / "X.npy", images)
    to = ["--logdir", logdir, "--output"]
    assert run("encode", tmp_path / "X.npy", *to, tmp_path / "Z.npy") == 0
    assert run("decode", tmp_path / "Z.npy", *to, tmp_path / "G.npy") == 0
    assert run("reconstruct", tmp_path / "X.npy", *to, tmp_path / "R.npy") == 0
    assert (tmp_path / "G.npy").read_bytes() == (tmp_path / "R.npy").read_bytes()
    assert run("decode", tmp_path / "Z.npy", *to, tmp_path / "pngs") == 0
    G, pngs = np.load(tmp_path / "G.npy"), images_of(tmp_path / "pngs")
    assert list(pngs) == [f"{i:04d}.png" for i in range(1234)]
    np.testing.assert_allclose(np.array(list(pngs.values())), G, atol=0.501 / 255)
    np.savez(tmp_path / "one.npz", Z=np.load(tmp_path / "Z.npy")[7:8].astype(np.float64))
    assert run("decode", tmp_path / "one.npz", *to, tmp_path / "new" / "one.png") == 0
    (one,) = images_of(tmp_path / "new").values()
    np.testing.assert_array_equal(one, pngs["0007.png"])


def test_codes_of_every_kind_of_number(model, tmp_path):
    Z = np.random.RandomState(0).randint(0, 9, (7, 3))
    for kind in (np.uint8, np.int64, np.float16, np.float64):
        np.save(tmp_path / "Z.npy", Z.astype(kind))
        output = tmp_path / f"{np.dtype(kind)}.npy"
        assert run("decode", tmp_path / "Z.npy", "--logdir", model[0], "--output", output) == 0
    with ae.load_model(model[0]) as (sess, g, _):
        G = sess.run(g.G, {g.Z: Z})
    for output in set(tmp_path.iterdir()) - {tmp_path / "Z.npy"}:
        np.testing.assert_array_equal(np.load(output), G)


def test_reconstructions_have_the_names_of_their_images(model, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a a.PNG"):
        png(tmp_path / "in" / name, np.full((4, 4), ord(name[0]), np.uint8))
    to = ["--logdir", model[0], "--output", tmp_path / "out"]
    assert run("reconstruct", tmp_path / "in", *to) == 0
    assert list(images_of(tmp_path / "out")) == ["a a.PNG", "b.png"]


BAD = {
    "encode {X} --output {X}": "{X} is there already: choose another output",
    "encode {X} --output {dir}/Z.csv": "output must be .npy, not {dir}/Z.csv",
    "encode {X} --output {X}/Z.npy": "{X} is not a folder to write to: File exists",
    "encode {X}": "the following arguments are required: --output (see --help)",
    "encode --output {dir}/Z.npy": "the following arguments are required: FILE_OR_FOLDER (see --help)",
    "encode {dir}/none.npy --output {dir}/new.npy": "{dir}/none.npy cannot be read: No such file or directory",
    "decode {X} --output {dir}/G.npy": "{X} is float64, 5 x 16: it must hold Z, n x 3 numbers",
    "decode {words} --output {dir}/G.npy": "{words} is <U1, 2 x 3: it must hold Z, n x 3 numbers",
    "decode {nan} --output {dir}/G.npy": "{nan} holds values that are not finite",
    "decode {Z} --output {dir}/G.jpg": "output must be .npy or .png or a folder of PNGs, not {dir}/G.jpg",
    "decode {Z} --output {dir}": "{dir} is there already: choose another output",
    "reconstruct {X} --output {dir}/G.png": "{dir}/G.png can hold one image, not 5: choose a folder or .npy",
    "export --output {dir}": "{dir} is there already: choose another output",
    "export --output {X}/saved": "{X} is not a folder to write to: File exists",
    "export --output /proc/saved": "/proc is not a folder to write to: No such file or directory",
}  # fmt: skip


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_status_2(model, tmp_path, capfd, arguments):
    names = {"dir": tmp_path} | {k: tmp_path / f"{k}.npy" for k in ("X", "Z", "nan", "words")}
    np.save(names["X"], np.zeros((5, 16)))
    np.save(names["Z"], np.zeros((2, 3)))
    np.save(names["nan"], np.full((2, 3), 1e300))  # infinite in float32
    np.save(names["words"], np.full((2, 3), "a"))
    before = files(tmp_path) | files(model[0])
    argv = [word.format(**names) for word in arguments.split()]
    assert run(*argv, "--logdir", model[0]) == 2
    tried["bad inputs refused"] += 1
    error = f"autoencoder.py: error: {BAD[arguments].format(**names)}\n"
    assert capfd.readouterr().err == error
    assert files(tmp_path) | files(model[0]) == before


# ---- export ----

# What somebody else has: TensorFlow, NumPy, and the exported folder.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf

assert tf.executing_eagerly() and not any("autoencoder" in name for name in sys.modules)
model = tf.saved_model.load(sys.argv[1])
X = tf.constant(np.load(sys.argv[2]))
Z = model.signatures["encode"](images=X)["Z"]
found = {"Z": Z, "decoded": model.signatures["decode"](Z=Z)["G"]}
found |= model.signatures["reconstruct"](images=X) | model.signatures["detect"](images=X)
np.savez(sys.argv[3], **found)
"""


def elsewhere(*command, cwd):
    """Runs a command where this module is not to be found."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def exported(main_job, mnist, tmp_path_factory):
    """The main job's network, exported: its folder, 1,000 images, and what the session answers."""
    folder = tmp_path_factory.mktemp("exported")
    done = shell("export", "--logdir", main_job.logdir, "--output", folder / "saved", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["SavedModel: saved"]
    X = mnist.test.images[:1000]
    np.save(folder / "X.npy", X)
    with ae.load_model(main_job.logdir) as (sess, g, detector):
        Z, G = sess.run([g.Z, g.G], {g.X: X})
        score, flag = ae.detect(sess, g, X, detector)
    error = np.square(G - X, dtype=np.float64).sum(axis=1) / 2
    answers = {"Z": Z, "decoded": G, "G": G, "error": error, "score": score, "flag": flag}
    return folder, answers


def check(found, expected):
    assert found.shape == expected.shape
    if found.dtype == bool:
        assert np.array_equal(found, expected) and 0 < found.sum() < len(found)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_somebody_elses_program_has_the_sessions_answers(exported, tmp_path):
    folder, answers = exported
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-I", "program.py", folder / "saved", folder / "X.npy", "found.npz"]
    elsewhere(*command, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    assert set(found) == set(answers)
    for name, expected in answers.items():
        check(found[name], expected)


def test_readmes_program_for_others_runs_as_it_stands(exported, tmp_path):
    folder, answers = exported
    text = (ROOT / "README.md").read_text()
    (program,) = re.findall(r"```python\n(import numpy as np\n.*?)```", text, re.S)
    (tmp_path / "digits").symlink_to(folder / "saved")
    (tmp_path / "images.npy").symlink_to(folder / "X.npy")
    said = elsewhere(sys.executable, "-I", "-c", program, cwd=tmp_path)
    assert said.startswith("(1000, 20) (1000, 784) [")
    first = float(re.search(r"\[ *([0-9.e+-]+)", said)[1])
    assert first == pytest.approx(answers["score"][0], rel=1e-3)


def test_tensorflows_own_tool_shows_and_runs_it(exported, tmp_path):
    folder, answers = exported
    tool = [Path(sys.executable).with_name("saved_model_cli")]
    shown = elsewhere(*tool, "show", "--dir", folder / "saved", "--all", cwd=tmp_path)
    expected = {
        "encode": (["images"], ["Z"]), "decode": (["Z"], ["G"]),
        "reconstruct": (["images"], ["G", "error"]), "detect": (["images"], ["flag", "score"]),
    }  # fmt: skip
    signatures = re.split(r"signature_def\['(\w+)'\]:", shown)
    for name, text in zip(signatures[1::2], signatures[2::2]):
        kinds = re.findall(r"inputs\['(\w+)'\]", text), re.findall(r"outputs\['(\w+)'\]", text)
        assert kinds == expected.pop(name)
    assert not expected
    run = ["run", "--dir", folder / "saved", "--tag_set", "serve", "--signature_def"]
    images = ["--inputs", f"images={folder / 'X.npy'}", "--outdir", "out"]
    elsewhere(*tool, *run, "detect", *images, cwd=tmp_path)
    for name in ("score", "flag"):
        check(np.load(tmp_path / "out" / f"{name}.npy"), answers[name])


def test_without_a_threshold_there_is_no_detect(small_hp, tmp_path):
    g = ae.build(small_hp)
    with ae.start(g) as sess:
        ae.export(sess, g, tmp_path / "saved")
        with ae.tf.Graph().as_default(), ae.tf.Session() as other:
            loaded = ae.tf.saved_model.load(other, ["serve"], str(tmp_path / "saved"))
            names = [v.name for v in ae.tf.global_variables()]
        assert set(loaded.signature_def) == {"encode", "decode", "reconstruct"}
        assert len(names) == 12 and not any("Adam" in name for name in names)
        with pytest.raises(ae.AutoEncoderError, match="saved is there already"):
            ae.export(sess, g, tmp_path / "saved")


def test_an_export_that_fails_leaves_nothing(small_hp, tmp_path, monkeypatch):
    def full(self):
        raise ae.tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(ae.tf.saved_model.Builder, "save", full)
    g = ae.build(small_hp)
    with ae.start(g) as sess, pytest.raises(ae.AutoEncoderError, match="No space left on device"):
        ae.export(sess, g, tmp_path / "new" / "saved")
    assert files(tmp_path) == {} and list((tmp_path / "new").iterdir()) == []


# ---- README's example; a large data set ----


@pytest.mark.slow
def test_readmes_example_runs_as_it_stands(tmp_path):
    (example,) = re.findall(r"```python\n(import autoencoder.*?)```", (ROOT / "README.md").read_text(), re.S)  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        re.search(r"^score: \d", done.stdout, re.M)
        and " of 10000 test images are unlike" in done.stdout
    )


LARGE = (
    PEAK
    + """
import json, sys, time
import numpy as np
import autoencoder as ae

data = ae.read_data_sets(sys.argv[1])
g = ae.build(ae.HParams(enc_n=(20,), Z_n=5, dec_n=(20,), epoch_n=2))
with ae.start(g) as sess:
    epoch = ae.train(sess, g, data, sys.argv[2])[-1]
    detector = ae.detector(sess, g, data)
    begin = time.process_time()
    scores, _ = ae.detect(sess, g, data.train.pixels, detector)
n = len(data.train.pixels)
print(json.dumps([epoch.seconds / n, (time.process_time() - begin) / n, 2**20 * peak(), n]))
"""
)


@pytest.mark.slow
def test_memory_and_time_of_many_images(tmp_path):
    measured = []
    for n in (20_000, 220_000):
        np.save(
            tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (n, 784), np.uint8)
        )
        command = [sys.executable, "-c", LARGE, tmp_path / "images.npy", tmp_path / f"run{n}"]
        env = {"PYTHONPATH": str(ROOT), "PATH": ""}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
        measured.append(json.loads(done.stdout.splitlines()[-1]))
    few, many = measured
    for a, b in zip(few[:2], many[:2]):
        assert b < 2 * a  # seconds an image, of training and of screening
    more = 784 * 200_000
    assert 0.8 * more < many[2] - few[2] < 1.5 * more  # once, not twice
    assert (few[3], many[3]) == (20_000 - 2857 - 1428, 220_000 - 15_000)
