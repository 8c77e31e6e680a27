#!/usr/bin/env bash
# What this project does on a machine with an NVIDIA GPU, written into a new folder as text:
#
#     bash tests/gpu.sh [FOLDER (default: logs/gpu)] [FACTOR, an integer (default: 1)]
#
# Takes at most nine minutes, or FACTOR times that on a slower machine. Uses the python3 on the PATH.
# A step that fails or has no time left does not stop the next. Runs without a GPU, too: on the CPU.
set -u
export OUT LIMIT
FACTOR=${2:-1}
TOTAL=$((530 * FACTOR))
export PYTHONUNBUFFERED=1 # so that what a step prints before its timeout is kept
cd "$(dirname "$0")/.." || exit # so FOLDER is relative to the project's folder
OUT=$(realpath -m "${1:-logs/gpu}")
mkdir "$OUT" || exit # a new folder, so that nothing is overwritten

step() { # NAME SECONDS: runs the commands on standard input, with their output in NAME.txt
    local begin=$SECONDS left=$((TOTAL - SECONDS))
    LIMIT=$(($2 * FACTOR < left ? $2 * FACTOR : left))
    if [ "$LIMIT" -lt 15 ]; then
        echo "$1: left out, no time"
        return
    fi
    timeout -k 5 "$LIMIT" bash -c "$(cat)" >"$OUT/$1.txt" 2>&1 </dev/null
    echo "$1: exit status $?, $((SECONDS - begin)) s"
}

step 1-machine 60 <<'STEP'
nvidia-smi
python3 --version
python3 -m pip list 2>&1 | grep -iE '^(tensor|keras|numpy|scipy|matplotlib|scikit-learn|optuna|pillow|jax|torch|pytest|nvidia)'
# With TensorFlow's log, which says why a GPU is not used.
export TF_CPP_MIN_LOG_LEVEL=0
python3 -c 'import tensorflow as tf; print(tf.__version__, tf.config.list_physical_devices("GPU"))'
STEP

step 2-run 90 <<'STEP'
stdbuf -oL nvidia-smi --query-gpu=memory.used --format=csv,noheader -lms 200 >"$OUT/2-memory.txt" 2>/dev/null &
sampler=$!
begin=$SECONDS
python3 autoencoder.py --logdir "$OUT/run" >"$OUT/2-stdout.txt" 2>"$OUT/2-stderr.txt"
echo "exit status $?, $((SECONDS - begin)) s"
kill $sampler 2>/dev/null
echo "GPU memory in use at first: $(head -n 1 "$OUT/2-memory.txt")"
echo "GPU memory in use at most: $(sort -n "$OUT/2-memory.txt" | tail -n 1)"
echo "lines with 'without XLA': $(cat "$OUT"/2-std*.txt | grep -c 'without XLA')"
echo "lines on stderr: $(wc -l <"$OUT/2-stderr.txt")"
cat "$OUT/2-stdout.txt"
STEP

# As tests/test_graph.py does it. One process per mode: XLA reads the choice of TF32 as it compiles.
step 3-trajectory 100 <<'STEP'
echo "largest relative difference of the loss from TensorFlow 1.14's"
for mode in "TF32 on" "TF32 off" "CPU"; do
    [ "$mode" = CPU ] && export CUDA_VISIBLE_DEVICES=""
    PYTHONPATH="tests:${PYTHONPATH:-}" python3 - "$mode" <<'PY'
import json
import sys

import numpy as np
from benchmark import weights

import autoencoder as ae

tf = ae.tf
tf.config.experimental.enable_tensor_float_32_execution(sys.argv[1] == "TF32 on")
with open("tests/seed_trajectory.json") as file:
    expected = json.load(file)["loss_before_each_step"]
images = ae.read_data_sets().train.images[np.random.RandomState(1).permutation(55000)]
for name in ("feed_loop", "compiled loop"):
    net = ae.build(ae.HParams())
    with net.X.graph.as_default(), ae.start_session(net) as sess:
        for variable, value in zip(tf.trainable_variables(), weights()):
            variable.load(value, sess)
        loop = ae.feed_loop if name == "feed_loop" else ae.compile_loop(sess, net)
        losses = [loop(sess, net, images[k : k + 100], 1) for k in range(0, 20000, 100)]
    difference = np.abs(np.divide(losses, expected) - 1)
    # The loss itself shows whether two modes compute the same bits.
    for n in (1, 12, 100, 200):
        print(f"{sys.argv[1]}, {name}, {n} steps: {difference[:n].max():.1e}, loss {losses[n - 1]}")
PY
done
STEP

# Twice in a process, because XLA may choose other kernels when it compiles again; and in two.
step 4-seed 110 <<'STEP'
for mode in default default deterministic; do
    python3 - $mode <<'PY'
import sys
import time
import zlib

import autoencoder as ae
import tensorflow

if sys.argv[1] == "deterministic":
    tensorflow.config.experimental.enable_op_determinism()
data = ae.read_data_sets()
for name, loop in (("feed_loop", ae.feed_loop), ("compiled loop", None)):
    for _ in range(2):
        net = ae.build(ae.HParams(epoch_n=2))
        with net.X.graph.as_default(), ae.start_session(net) as sess:
            begin = time.perf_counter()
            ae.train(sess, net, data, loop=loop)
            seconds = time.perf_counter() - begin
            weights = sess.run(ae.tf.trainable_variables())
        checksum = zlib.crc32(b"".join(w.tobytes() for w in weights))
        print(f"{sys.argv[1]}, {name}: checksum of the weights {checksum:08x}, {seconds:.1f} s")
PY
done
STEP

# tests/benchmark.py keeps PyTorch on the CPU, and says which modules are missing.
step 5-times 210 <<'STEP'
row() { # LABEL ENTRY
    echo "$1: $(python3 tests/benchmark.py "$2" 2 2>"$OUT/5-stderr.txt" || tail -n 1 "$OUT/5-stderr.txt")"
}
for round in 1 2 3; do
    row "compiled loop" "this project"
    row "tutorial's cell" "the tutorial's cell"
    row "feed_loop" "feed_loop"
    CUDA_VISIBLE_DEVICES="" row "compiled loop on the CPU" "this project"
    row "JAX" "JAX, jit and scan"
    python3 - "$OUT/5-times.txt" <<'PY'
import json
import statistics
import sys

times = {}
with open(sys.argv[1]) as file:
    for line in file:
        label, _, result = line.partition(": RESULT ")
        if result:
            times.setdefault(label, []).append(json.loads(result)["step_ms"])
for label, ms in times.items():
    print(f"{label}: median of {len(ms)}: {statistics.median(ms):.3f} ms per step")
PY
done
row "PyTorch on the CPU" "PyTorch, eager, fused Adam"
STEP

# The second and third figure are the host's work: to copy 5,500 images for each of an epoch's ten
# calls, and to select them.
step 6-epoch 60 <<'STEP'
stdbuf -oL nvidia-smi --query-gpu=timestamp,utilization.gpu,clocks.sm --format=csv -lms 200 >"$OUT/6-utilization.txt" 2>/dev/null &
trap "kill $! 2>/dev/null" EXIT
python3 - <<'PY'
import time

import autoencoder as ae


def clock(text, function, *arguments):
    for _ in range(8):
        begin = time.perf_counter()
        function(*arguments)
        print(f"{time.strftime('%H:%M:%S')} {text}: {time.perf_counter() - begin:.4f} s")


images = ae.read_data_sets().train.images
net = ae.build(ae.HParams())
order = ae.shuffled(net.hp.seed, 1, len(images))
with ae.start_session(net) as sess:
    loop = ae.compile_loop(sess, net)
    clock("an epoch", loop, sess, net, images, 1)
    clock("a call that makes one step", loop, sess, net, images[:100], 1)
    clock("selection of an epoch's images", lambda: images[order])
PY
STEP

step 7-resume 120 <<'STEP'
train_and_kill() { # LOGDIR EPOCH: kills the run when the checkpoint of this epoch is there
    python3 autoencoder.py --logdir "$1" &
    until compgen -G "$1/checkpoints/epoch-[$2-9].index" || ! kill -0 $!; do
        sleep 0.05
    done
    kill -KILL $!
    wait $!
    echo "killed: exit status $?"
}
train_and_kill "$OUT/killed" 3
python3 autoencoder.py --logdir "$OUT/killed" --resume
echo "resumed: exit status $?"
echo "of step 2, never killed: $(grep score "$OUT/2-stdout.txt")"
CUDA_VISIBLE_DEVICES="" train_and_kill "$OUT/moved" 5
python3 autoencoder.py --logdir "$OUT/moved" --resume
echo "begun on the CPU, resumed: exit status $?"
STEP

step 8-beyond 90 <<'STEP'
python3 - <<'PY'
import os

import numpy as np

import autoencoder as ae

np.save(os.environ["OUT"] + "/images.npy", ae.read_data_sets().test.images[:200])
PY
# Where a package is missing, the last line of the output is a ModuleNotFoundError that names it.
python3 -m beyond.screen "$OUT/images.npy" --logdir "$OUT/run"
echo "screen: exit status $?"
python3 -m beyond.export --logdir "$OUT/run" --output "$OUT/digits"
echo "export: exit status $?"
python3 -m beyond.tuning --trials 1 --epoch_n 1 --logdir "$OUT/tuning"
echo "tuning: exit status $?"
STEP

# Files in the order of importance. When the time is over, SIGINT makes pytest print its summary.
step 9-tests 150 <<'STEP'
timeout --foreground -s INT $((LIMIT - 8)) python3 -m pytest -n0 -q -rfE --tb=short \
    --continue-on-collection-errors \
    tests/test_{graph,built,training,tutorial,checkpoints,shell}.py tests \
    --ignore=tests/test_notebook.py \
    --deselect=tests/test_tensorboard.py::test_every_tab_shows_the_main_job
STEP
