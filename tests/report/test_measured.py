"""Executions as tasks of steps: counted, ordered by calls, told by microbatch."""

from dataclasses import replace

import pytest

from planner.core import programs
from planner.errors import RunError
from planner.report import plots
from planner.report.measured import HOST, Execution, measured_steps, typical
from tests.report.records import eight_devices

RECORD = replace(eight_devices(), microbatches=2)
STEP_S, TASK_S = 10.0, 1.0


def executions(steps: int = 2, drop: int | None = None) -> list[Execution]:
    """Two stages of two devices: forwards and backwards of two microbatches, then the update; the second device of each
    works half of the time. Step n begins at 100 + 10 n."""
    found = []
    for n in range(steps):
        for stage in (0, 1):
            order = [(programs.FORWARD, 0), (programs.FORWARD, 1), (programs.BACKWARD, 0), (programs.BACKWARD, 1),
                     (programs.UPDATE, 0)]
            for place, (work, call) in enumerate(order):
                start = 100 + STEP_S * n + TASK_S * (place + stage)
                calls = 1 if work == programs.UPDATE else 2
                for device, length in ((2 * stage, TASK_S), (2 * stage + 1, TASK_S / 2)):
                    found.append(Execution(device, f"jit_{programs.program_name(stage, work)}", n * calls + call, start,
                                           start + length))
                found.append(Execution(HOST, programs.program_name(stage, work), 0, start - 0.5, start - 0.4))
    found.append(Execution(0, "jit_convert", 0, 0.0, 1.0))
    return found if drop is None else found[:drop] + found[drop + 1:]


def test_tasks_have_stage_work_microbatch_and_times_from_the_first_start():
    steps = measured_steps(RECORD, executions(), 2)
    assert len(steps) == 2
    for step in steps:
        mine = [(t.work, t.microbatch, t.start_s, t.end_s) for t in step.tasks if t.stage == 1]
        assert mine == [("forward", 0, 1.0, 2.0), ("forward", 1, 2.0, 3.0), ("backward", 0, 3.0, 4.0),
                        ("backward", 1, 4.0, 5.0), ("update", None, 5.0, 6.0)]
        assert step.step_time_s == 6.0
        assert step.busy_s([0]) == pytest.approx(5 * 0.75)  # one device works always, the other half of the time
        assert [call.start_s for call in step.calls][:2] == pytest.approx([-0.5, 0.5])
        assert len(step.calls) == 10


def test_the_typical_step_is_the_one_of_median_time():
    steps = measured_steps(RECORD, executions(3), 3)
    slow = replace(steps[0], tasks=(*steps[0].tasks, replace(steps[0].tasks[0], end_s=60.0)))
    fast = replace(steps[0], tasks=steps[0].tasks[:2])
    assert typical([slow, steps[1], fast]) is steps[1]


def test_a_profile_that_lacks_something_is_refused():
    with pytest.raises(RunError, match="3 or 4 calls of 'jit_stage0_forward' in 2 steps"):
        measured_steps(RECORD, executions(drop=0), 2)
    with pytest.raises(RunError, match="no program of the plan"):
        measured_steps(RECORD, executions()[-1:], 2)
    with pytest.raises(RunError, match="no program of the plan"):
        measured_steps(RECORD, [e for e in executions() if e.device == HOST], 2)


def test_a_picture_is_drawn(tmp_path):
    (step,) = measured_steps(RECORD, executions(1), 1)
    plots.plot_measured(RECORD, step, tmp_path / "a.svg")
    plots.plot_measured(RECORD, step, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
