"""Joining and reporting recorded rows, on a fixture of three plans."""

import math

import calibration_pairs
import pytest
from recording import append


def measured(fingerprint, low, moved):
    return {"model": "m", "fingerprint": fingerprint, "collective_bytes": moved, "peak_bytes": 1000, "disturbed": 0.0,
            "step_s": {"low": low, "median": 2 * low, "least": low}}


def predicted(fingerprint, seconds, moved, plan="p"):
    return {"model": "m", "plan": plan, "fingerprint": fingerprint, "step_s": seconds, "collective_bytes": moved,
            "peak_bytes": 1200}


ROWS = [measured("a", 1.0, 250), measured("b", 2.0, None), measured("a", 1.25, 250)]


def test_a_prediction_meets_the_latest_measurement_of_its_own_program():
    pairs = calibration_pairs.joined(ROWS, [predicted("a", 1.0, 230), predicted("changed", 1.0, 0),
                                            predicted("b", 1.0, 0)], "low")
    first, second = pairs["m"]
    assert (first.measured_s, first.ratio) == (1.25, 0.8)
    assert (first.bytes_ratio, first.memory_ratio) == (pytest.approx(0.92), 1.2)
    assert second.bytes_ratio is None


def test_what_others_took_is_no_part_of_a_step():
    row = {**measured("a", 2.0, 0), "disturbed": 0.25}
    assert calibration_pairs.joined([row], [predicted("a", 1.0, 0)], "low")["m"][0].measured_s == 1.5


def test_bytes_where_nothing_is_communicated():
    assert calibration_pairs.ratio(0, 0) == 1.0
    assert calibration_pairs.ratio(1, 0) == math.inf


def test_the_report_says_what_is_off():
    pairs = calibration_pairs.joined(ROWS, [predicted("a", 1.0, 230, "near"), predicted("b", 1.0, 0, "far")], "low")
    text = calibration_pairs.report(pairs)
    head, line = text.splitlines()[:2]
    shown = dict(zip(head.split(), line.split(), strict=True))
    assert shown == {"model": "m", "plans": "2", "error": "35.0%", "mean": "35.0%", "bias": "0.65", "tau": "0.00",
                     "regret": "0.0%", "bytes": "1/1", "memory": "0/2"}
    assert text.index("far ") < text.index("near ")


def test_rows_survive_a_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert calibration_pairs.rows(path) == []
    for row in ROWS:
        append(path, row)
    assert calibration_pairs.rows(path) == ROWS
