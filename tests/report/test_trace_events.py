"""A timeline as trace events: every interval once, memory beside it, nothing written halfway."""

import json
from dataclasses import replace

import pytest

from planner.errors import PlannerError
from planner.report.measured import measured_steps
from planner.report.trace_events import trace_events, write_trace
from planner.simulate import simulate
from tests.report.records import eight_devices
from tests.report.test_measured import RECORD, executions
from tests.report.trace_format import assert_valid


def test_every_interval_is_an_event_in_microseconds(tmp_path):
    line = simulate(eight_devices())
    write_trace(line, tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert_valid(trace_events(line))
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


def test_measured_and_predicted_stand_one_above_the_other_from_the_same_start():
    line, (step,) = simulate(RECORD), measured_steps(RECORD, executions(1), 1)
    document = trace_events(line, step)
    assert_valid(document)
    events = document["traceEvents"]
    names = {e["args"]["sort_index"]: next(x["args"]["name"] for x in events if x["name"] == "process_name" and
                                           x["pid"] == e["pid"]) for e in events if e["name"] == "process_sort_index"}
    assert [names[n].split(" (")[0] for n in sorted(names)] == [
        "host, measured", "stage 0, measured", "stage 0, predicted", "stage 1, measured", "stage 1, predicted"]
    starts = {name: min(e["ts"] for e in events if e["ph"] == "X" and e["pid"] == pid) for pid, name in names.items()}
    assert starts["stage 0, predicted"] == pytest.approx(5e5, abs=200)  # the host's call was first
    assert starts["host, measured"] == 0
    assert next(t for name, t in starts.items() if name.startswith("stage 0, measured")) == pytest.approx(5e5)
    for pid in (1, 2):  # the same names above and below
        tasks = {e["name"] for e in events if e["ph"] == "X" and e["pid"] == pid}
        assert {"forward 0", "forward 1", "backward 0", "backward 1", "update"} <= tasks


def test_tasks_at_the_same_time_get_threads_of_their_own():
    line, (step,) = simulate(RECORD), measured_steps(RECORD, executions(1), 1)
    late = replace(step, tasks=tuple(replace(t, end_s=t.end_s + 0.5) for t in step.tasks))
    document = trace_events(line, late)
    assert_valid(document)
    assert any(e["name"] == "thread_name" and e["args"]["name"] == "tasks, 2 at once" for e in document["traceEvents"])
