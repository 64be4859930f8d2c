"""Published runs are judged by fits that have not seen them: made-up runs of known constants, and a wrong file."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from megatron import PLAIN, Run, layer_s, step_s
from published import FOLDS, Judge, read, shape

import planner

CLUSTER = planner.cluster("dgx-a100-40gb")
TRUE = replace(PLAIN, launch_s=30e-6, matmul=0.6, score_passes=12.0)


def some_runs():
    return [Run(8 * data, micro, hidden, 16, layers, 1024, tensor, data, pipeline)
            for hidden, layers, micro, (tensor, data, pipeline) in product(
                (1024, 2048), (12, 24), (1, 2, 4), ((1, 2, 1), (2, 1, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2), (4, 1, 2)))]


def test_constants_of_made_up_runs_are_found_again(monkeypatch):
    monkeypatch.setattr("published.FOLDS", 2)
    runs = some_runs()[::2]
    judge = Judge(runs, np.array([step_s(run, CLUSTER, TRUE) for run in runs]), CLUSTER, 0)
    off, on = judge.figures(judge.unfitted()), judge.figures(judge.shapes_held_out())
    assert off["mean_error"] > 0.1
    assert on["mean_error"] < 0.02 and on["mean_regret"] < 0.01 and on["tau"] > 0.95


def test_a_shape_that_is_held_out_tells_the_fit_nothing(monkeypatch):
    """A shape twice as slow as all the others is mispredicted by two where it is held out, not where runs are."""
    runs = some_runs()
    odd = shape(runs[0])
    measured = np.array([step_s(run, CLUSTER, PLAIN) * (2 if shape(run) == odd else 1) for run in runs])
    judge = Judge(runs, measured, CLUSTER, 0)
    monkeypatch.setattr(Judge, "fit", lambda self, known: PLAIN)
    of_it = [n for n, run in enumerate(runs) if shape(run) == odd]
    assert judge.shapes_held_out()[of_it] / measured[of_it] == pytest.approx(0.5)
    assert judge.runs_held_out()[of_it] / measured[of_it] == pytest.approx(1.0)


def test_every_run_is_predicted_by_a_fit_without_it(monkeypatch):
    runs = some_runs()
    judge = Judge(runs, np.ones(len(runs)), CLUSTER, 1)
    seen = []
    monkeypatch.setattr(Judge, "fit", lambda self, known: seen.append(set(known.tolist())) or PLAIN)
    judge.runs_held_out()
    assert len(seen) == FOLDS
    assert all(sum(n not in known for known in seen) == 1 for n in range(len(runs)))


def test_small_layers_take_what_the_host_takes():
    host = 70 * PLAIN.launch_s
    assert layer_s(256, 4, 128, 1, 1, CLUSTER, PLAIN) == pytest.approx(host, rel=0.05)
    assert layer_s(4096, 32, 2048, 8, 1, CLUSTER, PLAIN) > 5 * host


def test_rows_whose_degrees_do_not_multiply_are_refused(tmp_path):
    good = tmp_path / "good.csv"
    good.write_text("# GPUs,...\n4,16,2,1024,16,24,1024,2,2,1,100.5\n")
    runs, measured = read(good)
    assert runs == [Run(16, 2, 1024, 16, 24, 1024, 2, 2, 1)] and measured.tolist() == [0.1005]
    bad = tmp_path / "bad.csv"
    bad.write_text("8,16,2,1024,16,24,1024,2,2,1,100.5\n")
    with pytest.raises(SystemExit, match="row 1"):
        read(bad)
