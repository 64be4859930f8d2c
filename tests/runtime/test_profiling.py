"""Profiles read back: of a run on virtual CPU devices, and as GPUs and TPUs tell them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import jax
import pytest

from planner.check.inputs import random_batch
from planner.errors import RunError
from planner.runtime import Loop, LoopOptions, Trace, compile_plan
from planner.runtime.profiling import executions
from tests.report.trace_format import assert_valid
from tests.runtime import models
from tests.runtime.plans import Design, record_of


def traced(design: Design, paths: list[Path], numbers: range, steps: int = 2) -> list[str]:
    """The notes of a traced run's steps."""
    model = models.mlp()
    record = record_of(model, design)
    step, state = compile_plan(record, model, jax.devices()[:record.device_count])
    loop = Loop(record, step, state, lambda n: random_batch(model, n), numbers,
                LoopOptions(trace=Trace(paths, steps)))
    return [done.note for done in loop]


def test_a_run_of_two_stages_is_seen_task_by_task(tmp_path):
    place = tmp_path / "run.json"
    notes = traced(Design(stages=2, mesh_shape=(2,), microbatches=2), [place, tmp_path / "run.png"], range(6))
    assert notes == ["", "", "", f"traced 2 steps: {place}, {tmp_path / 'run.png'}", "", ""]
    assert (tmp_path / "run.png").stat().st_size > 0
    document = json.loads(place.read_text())
    assert_valid(document)
    slices = [e for e in document["traceEvents"] if e["ph"] == "X"]
    seen = {pid: [e["name"] for e in slices if e["pid"] == pid] for pid in (0, 1, 3)}
    tasks = ["backward 0", "backward 1", "forward 0", "forward 1", "sync", "update", "zeros"]
    assert sorted(seen[1]) == sorted(seen[3]) == tasks
    assert sorted(seen[0]) == sorted(f"{task} of stage {stage}" for stage in (0, 1) for task in tasks)


def test_a_run_of_one_stage_is_seen_as_whole_steps(tmp_path):
    notes = traced(Design(mesh_shape=(2,)), [tmp_path / "run.json"], range(3), steps=5)
    assert notes == ["", "", f"traced 1 steps: {tmp_path / 'run.json'}"]
    document = json.loads((tmp_path / "run.json").read_text())
    assert_valid(document)
    assert [e["name"] for e in document["traceEvents"] if e["ph"] == "X" and e["pid"] == 1] == ["step"]


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path):
    notes = traced(Design(mesh_shape=(1,)), [tmp_path / "none" / "run.json"], range(4), steps=1)
    assert notes[2].startswith("no trace: cannot write") and len(notes) == 4


def test_a_profile_under_way_is_told_and_ends_no_run(tmp_path):
    jax.profiler.start_trace(str(tmp_path / "other"))
    try:
        notes = traced(Design(mesh_shape=(1,)), [tmp_path / "run.json"], range(4))
    finally:
        jax.profiler.stop_trace()
    assert notes[1].startswith("no trace: the profiler cannot start") and not (tmp_path / "run.json").exists()


def test_too_few_steps_are_refused():
    with pytest.raises(RunError, match="1 steps with 3 of them traced"):
        traced(Design(mesh_shape=(1,)), [Path("run.json")], range(1), steps=3)


@dataclass
class Event:
    name: str
    start_ns: float
    end_ns: float
    stats: list[tuple[str, object]] = field(default_factory=list)


@dataclass
class Line:
    name: str
    events: list[Event]


@dataclass
class Plane:
    name: str
    lines: list[Line]


@dataclass
class Profile:
    planes: list[Plane]


def kernel(module: str, start: float) -> Event:
    return Event("gemm", start, start + 1, [("hlo_module", module), ("hlo_op", "dot.1")])


def test_kernels_of_a_gpu_are_cut_into_as_many_calls_as_there_were():
    """Two kernels a call, on two streams; one step of two microbatches, and the update once."""
    streams = [Line("Stream #1(Compute)", [kernel("jit_stage0_forward", 0), kernel("jit_stage0_forward", 10),
                                           kernel("jit_stage0_update_round0", 20), kernel("jit_other", 30)]),
               Line("Stream #2(Memset)", [kernel("jit_stage0_forward", 2), kernel("jit_stage0_forward", 12)])]
    host = Plane("/host:CPU", [Line("launches", [kernel("jit_stage0_forward", 1)])])
    found = list(executions(Profile([Plane("/device:GPU:3", streams), host, Plane("/host:metadata", [])]), 2, 1))
    assert [(e.device, e.program, e.run, round(1e9 * e.start_s), round(1e9 * e.end_s)) for e in found] == [
        (3, "jit_stage0_forward", 0, 0, 3), (3, "jit_stage0_forward", 1, 10, 13),
        (3, "jit_stage0_update_round0", 0, 20, 21)]
    with pytest.raises(RunError, match="4 operators of 'jit_stage0_forward' in 6 calls"):
        list(executions(Profile([Plane("/device:GPU:3", streams)]), 2, 3))


def test_whole_programs_are_taken_where_a_device_lists_them():
    lines = [Line("XLA Modules", [Event("jit_stage1_step(123)", 5, 9), Event("jit_stage1_step(123)", 0, 4)]),
             Line("XLA Ops", [kernel("jit_stage1_step", 0)])]
    found = list(executions(Profile([Plane("/device:TPU:0", lines)]), 1, 2))
    assert [(e.run, round(1e9 * e.start_s), round(1e9 * e.end_s)) for e in found] == [(0, 0, 4), (1, 5, 9)]


def test_calls_of_the_host_are_told_once():
    calls = [Event("PjitFunction(stage0_forward)", 0, 5), Event("PjitFunction(stage0_forward)", 1, 4),
             Event("PjitFunction(stage0_forward)", 6, 7), Event("PjitFunction(convert)", 8, 9)]
    found = list(executions(Profile([Plane("/host:CPU", [Line("python", calls)])]), 1, 1))
    assert [(e.device, round(1e9 * e.start_s)) for e in found] == [(-1, 0), (-1, 6)]
