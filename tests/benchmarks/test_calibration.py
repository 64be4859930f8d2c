"""Joining and reporting recorded rows, on a fixture of three plans."""

import math

import calibration_pairs as calibration
import pytest
from recording import append


def measured(fingerprint, low, collectives, plan="p"):
    return {"model": "m", "plan": plan, "fingerprint": fingerprint, "collectives": collectives, "disturbed": 0.0,
            "step_s": {"low": low, "median": 2 * low, "least": low}}


def predicted(fingerprint, seconds, collectives, plan="p", microbatches=2):
    return {"model": "m", "plan": plan, "fingerprint": fingerprint, "step_s": seconds, "microbatches": microbatches,
            "collectives": collectives}


ROWS = [measured("a", 1.0, [["microbatch", "all-reduce", 100], ["batch", "all-gather", 50]]),
        measured("b", 2.0, None), measured("a", 1.25, [["microbatch", "all-reduce", 100], ["batch", "all-gather", 50]])]


def test_a_prediction_meets_the_latest_measurement_of_its_own_program():
    pairs = calibration.joined(ROWS, [predicted("a", 1.0, [["microbatch", "all-reduce", 115]]),
                                      predicted("changed", 1.0, []), predicted("b", 1.0, [])], "low")
    first, second = pairs["m"]
    assert (first.measured_s, first.ratio) == (1.25, 0.8)
    assert first.bytes_ratio == pytest.approx(230 / 250)
    assert second.bytes_ratio is None


def test_bytes_where_nothing_is_communicated():
    nothing = measured("a", 1.0, [])
    assert calibration.byte_ratio(predicted("a", 1.0, []), nothing) == 1.0
    assert calibration.byte_ratio(predicted("a", 1.0, [["batch", "all-reduce", 1]]), nothing) == math.inf


def test_the_report_says_what_is_off():
    pairs = calibration.joined(ROWS, [predicted("a", 1.0, [["microbatch", "all-reduce", 115]], "near"),
                                      predicted("b", 1.0, [], "far")], "low")
    text = calibration.report(pairs)
    head, line = text.splitlines()[:2]
    shown = dict(zip(head.split(), line.split(), strict=True))
    assert shown == {"model": "m", "plans": "2", "error": "35.0%", "mean": "35.0%", "bias": "0.65", "tau": "0.00",
                     "regret": "0.0%", "bytes": "1/1"}
    assert text.index("far ") < text.index("near ")


def test_rows_survive_a_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert calibration.rows(path) == []
    for row in ROWS:
        append(path, row)
    assert calibration.rows(path) == ROWS
