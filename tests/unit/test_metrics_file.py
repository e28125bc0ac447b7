"""metrics.csv holds what the histories hold."""

import csv

import numpy as np

from compsgd.workers.results.metrics_file import HEAD, write_metrics


def test_every_value_with_its_step(tmp_path):
    history = {
        "avg_epoch_loss_hist": [2.0, 1 / 3],
        "batch_acc_hist": [10.0, 20.0],
        "batch_step_hist": [1, 3],
        "bytes_sent_hist": [7, 8, 9, 10],
        "bin_usage": np.ones((4, 9)),
        "test_acc_hist": [],
        "diagnosis_step_hist": [2, 4],
        "cosine_hist": [0.5, 0.25],
        "agreement_hist": np.array([[0.0, 1.0], [0.0, 1.0]]),
    }
    path = tmp_path / "metrics.csv"
    write_metrics(path, {(0.1, 1.0): history})
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == HEAD
    assert {tuple(row[:2]) for row in rows} == {("0.1", "1.0")}
    found = {}
    for _, _, metric, step, value in rows:
        found.setdefault(metric, []).append((int(step), float(value)))
    assert found == {
        "avg_epoch_loss_hist": [(2, 2.0), (4, 1 / 3)],
        "batch_acc_hist": [(1, 10.0), (3, 20.0)],
        "bytes_sent_hist": [(1, 7), (2, 8), (3, 9), (4, 10)],
        "cosine_hist": [(2, 0.5), (4, 0.25)],
    }
