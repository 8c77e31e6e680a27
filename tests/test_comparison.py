"""beyond.comparison: a row of its table, beside what the same network gives in other ways."""

import dataclasses
import re

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

import autoencoder as ae
from beyond import anomaly
from conftest import SMALL, typed


def test_the_row_of_a_plain_network(small_dir, small_hp, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ae, "compile_loop", lambda *_, **__: ae.feed_loop)  # it takes seconds
    flags = [*SMALL, "--epoch_n", 2, "--data_dir", small_dir, "--init", "he", "--seed", 1]
    assert typed(*flags, "--logdir", tmp_path / "out", module="comparison") == 0
    assert (tmp_path / "out" / "kinds.png").exists()
    lines = capsys.readouterr().out.splitlines()
    table = {name: row for name, *row in (re.split("  +", line.strip()) for line in lines)}
    columns = table["kind"]
    assert len(table["variational*"]) == len(columns) == len(table["plain*"])
    found = dict(zip(columns, table["plain*"]))
    data = ae.read_data_sets(small_dir)
    hp = dataclasses.replace(small_hp, Z_activation="linear", init="he", seed=1)
    net = ae.build(hp)
    with ae.start_session(net) as sess:
        ae.train(sess, net, data)
        Z = sess.run(net.Z, {net.X: data.train.images})
        test_Z, G = sess.run([net.Z, net.G], {net.X: data.test.images})
    score = 50 * np.square(G - data.test.images).sum(axis=1).mean()
    neighbours = KNeighborsClassifier(algorithm="brute").fit(Z, data.train.labels)
    accuracy = 100 * neighbours.score(test_Z, data.test.labels)
    [by_score] = anomaly.measure(data, anomaly.defects(data.test.images), [hp])
    aurocs = [value for (name, _), value in by_score.items() if name == "largest"]
    assert found["weights"] == str(17 * 8 + 9 * 6 + 7 * 3 + 4 * 6 + 7 * 8 + 9 * 16)
    assert found["score"] == f"{score:.1f}" and found["accuracy"] == f"{accuracy:.2f}"
    assert found["AUROC"] == f"{np.mean(aurocs):.3f}" and found["worst"] == f"{min(aurocs):.3f}"
