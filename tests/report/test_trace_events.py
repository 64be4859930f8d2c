"""A timeline as trace events: every interval once, memory beside it, nothing written halfway."""

import json

import pytest

from planner.errors import PlannerError
from planner.report.trace_events import trace_events, write_trace
from planner.simulate import simulate
from tests.report.records import eight_devices


def test_every_interval_is_an_event_in_microseconds(tmp_path):
    line = simulate(eight_devices())
    write_trace(line, tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    drawn = [e for e in events if e["ph"] == "X"]
    assert len(drawn) == len(line.intervals)
    assert max(e["ts"] + e["dur"] for e in drawn) == pytest.approx(1e6 * line.step_time_s)
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"stage 0", "stage 1"}
    peaks = {e["pid"]: 0.0 for e in events}
    for e in events:
        if e["ph"] == "C":
            peaks[e["pid"]] = max(peaks[e["pid"]], e["args"]["bytes"])
    assert peaks == {n: line.memory_curve(n).peak_bytes for n in (0, 1)}


def test_what_cannot_be_written_is_said(tmp_path):
    line = simulate(eight_devices())
    with pytest.raises(PlannerError, match="folder"):
        write_trace(line, tmp_path / "none" / "t.json")
    with pytest.raises(PlannerError, match="intervals=True"):
        trace_events(simulate(eight_devices(), intervals=False))
