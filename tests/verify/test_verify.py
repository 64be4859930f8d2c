"""Plans before their compiler, on the eight CPU devices: what agrees is told, and what does not."""

import json
from dataclasses import replace
from typing import Any

import jax
import pytest

import planner
from planner import models
from planner.core.plan import HOST, PlanRecord
from planner.errors import PlanMismatchError, VerifyError
from planner.fitting import with_memory
from planner.search import Found
from planner.trace import trace_program
from planner.verify import VerifyReport, verify_plan
from planner.verify.report import KindRow, StageReport, Surprise

SMALL = {"dtype": "float32", "batch_size": 16}


def planned(name: str, sizes: dict[str, Any], **pins: Any) -> tuple[PlanRecord, planner.Model]:
    model = models.build(name, **SMALL | sizes)
    return planner.plan(model, planner.cluster("cpu-8"), **pins).record, model


@pytest.fixture(scope="module")
def mlp() -> tuple[PlanRecord, planner.Model]:
    return planned("mlp-tiny", {}, recipe="data", stages=1, microbatches=1)


def test_data_parallel_mlp_is_what_was_planned(mlp) -> None:
    record, model = mlp
    told: list[tuple[str, float]] = []
    report = verify_plan(record, model, "local", progress=lambda what, share: told.append((what, share)))
    (stage,) = report.stages
    assert stage.made_traffic == stage.foreseen_traffic == 4 * model.parameter_count + 4  # gradients, and the loss
    assert stage.made_sent == stage.foreseen_sent == pytest.approx(7 / 4 * stage.made_traffic, abs=2)
    assert stage.unforeseen == stage.absent == report.findings == ()
    assert stage.compiled_flops == stage.predicted_flops > 0
    assert stage.traffic_passed and stage.flops_as_predicted
    assert told == [("step", 0.0)]
    assert report.target == "local" and report.compile_s > 0


def test_gpt_in_microbatches_counts_loops() -> None:
    record, model = planned("gpt-tiny", {"layers": 1, "batch_size": 32}, recipe="fsdp", stages=1, microbatches=4)
    (stage,) = verify_plan(record, model, "local").stages
    gathers = next(k for k in stage.kinds if k.kind == "all-gather")
    assert gathers.made == gathers.foreseen and gathers.made_bytes == gathers.foreseen_bytes
    assert stage.compiled_flops == stage.predicted_flops > 0
    assert all(s.bytes < 1024 for s in stage.unforeseen)  # the scale of a norm, whose gradient waits for no batch's end


@pytest.mark.parametrize(("stages", "microbatches"), [
    (1, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_optimizer_state_on_the_host_saves_the_memory_promised(stages, microbatches) -> None:
    record, model = planned("gpt-tiny", {"layers": 2}, recipe="data", stages=stages, microbatches=microbatches)
    program = trace_program(model, microbatches)
    moved = replace(record, params=tuple(replace(p, opt_memory=HOST) for p in record.params))
    away = with_memory(Found(moved, program))
    before, after = verify_plan(record, model, "local").stages, verify_plan(away, model, "local").stages
    for one, other, stage in zip(before, after, away.stages, strict=True):
        saved = one.compiled_bytes - other.compiled_bytes
        assert saved == pytest.approx(one.predicted_bytes - other.predicted_bytes, rel=0.1)
        assert saved == pytest.approx(stage.memory.host_bytes, rel=0.1)


def test_activations_on_the_host_save_the_memory_promised() -> None:
    record, model = planned("gpt-tiny", {"layers": 2, "batch_size": 32}, recipe="data", stages=2, microbatches=8,
                            schedule="gpipe")
    moved = replace(record, stages=tuple(replace(s, offload=tuple(range(*s.layers))) for s in record.stages))
    away = with_memory(Found(moved, trace_program(model, 8)))
    before, after = verify_plan(record, model, "local").stages, verify_plan(away, model, "local").stages
    for one, other, stage in zip(before, after, away.stages, strict=True):
        saved = one.compiled_bytes - other.compiled_bytes
        assert saved >= 0.7 * stage.memory.host_bytes > 0
        assert saved == pytest.approx(one.predicted_bytes - other.predicted_bytes, rel=0.2)


def test_every_stage_of_a_pipeline_is_compiled() -> None:
    record, model = planned("gpt-tiny", {"layers": 2}, recipe="data", stages=2, microbatches=2)
    report = verify_plan(record, model, "local")
    assert [s.index for s in report.stages] == [0, 1]
    for stage in report.stages:
        assert {p.name: p.times for p in stage.programs} == {
            "forward": 2, "backward": 2, "zeros": 1, "finish": 1, "update": 1}
        assert stage.made_traffic == stage.foreseen_traffic > 0
        assert stage.compiled_flops == stage.predicted_flops > 0
        held = max(p.argument_bytes + p.output_bytes - p.alias_bytes + p.temp_bytes for p in stage.programs)
        assert stage.compiled_bytes >= held


def test_gradients_that_lie_as_their_sums_take_their_place() -> None:
    record, model = planned("mlp-tiny", {"layers": 2}, recipe="tensor", stages=2, microbatches=2)
    for stage in verify_plan(record, model, "local").stages:
        finish = next(p for p in stage.programs if p.name == "finish")
        assert finish.alias_bytes == finish.argument_bytes > 0


@pytest.mark.parametrize(("pins", "gathers"), [
    ({"recipe": "fsdp", "stages": 1, "recompute": True}, True),
    ({"recipe": "megatron", "mesh_axes": (("data", 2), ("model", 2)), "stages": 2}, False),
    ({"recipe": "megatron", "mesh_axes": (("fsdp", 4), ("model", 2)), "stages": 1}, True),
])
def test_what_the_backward_communicates_again_is_foreseen(pins: dict[str, Any], gathers: bool) -> None:
    """What recomputation repeats; what the backward of a pipeline's stage, a program of its own, reshards again; and
    what it shares with the forward within one program."""
    record, model = planned("mlp-tiny", {"layers": 4}, microbatches=2, **pins)
    for stage in verify_plan(record, model, "local").stages:
        assert {(k.kind, k.axes): k.made_bytes for k in stage.kinds} == {
            (k.kind, k.axes): k.foreseen_bytes for k in stage.kinds}
        assert not gathers or any(k.kind == "all-gather" and k.made for k in stage.kinds)
        assert stage.unforeseen == stage.absent == ()


def test_what_the_plan_does_not_foresee_is_named(mlp) -> None:
    """The same plan with its communications struck out: each that the compiler makes is named, by parameter or by
    operator and line, with its tensor, and counts as a finding."""
    record, model = mlp
    blind = replace(record, stages=tuple(replace(s, collectives=()) for s in record.stages))
    report = verify_plan(blind, model, "local")
    (stage,) = report.stages
    assert not report.passed and not stage.traffic_passed
    weight = next(s for s in stage.findings if s.tensor == "f32[64,64]")
    assert weight.kind == "all-reduce" and weight.axes == record.stages[0].mesh_axes[0]
    assert weight.operator.startswith(("gradient of ", "dot_general (backward) mlp.py:"))
    assert weight.bytes == 4 * 64 * 64 and weight.share > 0.01
    assert sum(s.bytes * s.times for s in stage.unforeseen) == stage.made_traffic
    loss = next(s for s in stage.unforeseen if s.tensor == "f32[]")
    assert "(forward)" in loss.operator and ".py:" in loss.operator
    text = str(report)
    assert "FAILED" in text and "not foreseen" in text and weight.operator.split(" ")[0] in text


def test_what_the_compiler_does_not_make_is_told(mlp) -> None:
    record, model = mlp
    stage = record.stages[0]
    more = (*stage.collectives, replace(stage.collectives[0], kind="all-to-all", bytes=1 << 20, where="a fiction",
                                        count=1))
    report = verify_plan(replace(record, stages=(replace(stage, collectives=more),)), model, "local")
    (absent,) = report.stages[0].absent
    assert (absent.kind, absent.bytes, absent.operator, absent.program) == ("all-to-all", 1 << 20, "a fiction", "")
    assert not report.passed


def test_memory_that_is_predicted_too_small_fails(mlp) -> None:
    record, model = mlp
    stage = record.stages[0]
    real = verify_plan(record, model, "local").stages[0].compiled_bytes
    for total, passes in ((real, True), (int(0.9 * real), False), (int(1.2 * real), False)):
        memory = replace(stage.memory, params_bytes=0, opt_state_bytes=0, grads_bytes=0, activations_bytes=0,
                         transient_bytes=total)
        changed = replace(record, stages=(replace(stage, memory=memory),))
        assert verify_plan(changed, model, "local").stages[0].memory_passed == passes


def test_a_plan_is_verified_for_more_devices_than_there_are() -> None:
    """No process of its own: the virtual devices have a client of their own."""
    model = models.build("mlp-tiny", **SMALL)
    cluster = planner.cluster("cpu-8", nodes=2)
    plan = planner.plan(model, cluster, recipe="data", stages=1, microbatches=1)
    report = plan.verify(model)
    assert (report.target, report.devices) == ("cpu:16", 16)
    assert report.stages[0].made_traffic == report.stages[0].foreseen_traffic > 0
    assert len(jax.devices()) == 8


def test_inference_is_verified(mlp) -> None:
    model = models.build("mlp-tiny", inference=True, **SMALL)
    for stages in (1, 2):
        record = planner.plan(model, planner.cluster("cpu-8"), stages=stages, microbatches=2).record
        report = verify_plan(record, model, "local")
        assert {p.name for s in report.stages for p in s.programs} == ({"step"} if stages == 1 else {"forward"})


def test_another_model_or_target_is_refused(mlp) -> None:
    record, model = mlp
    with pytest.raises(VerifyError, match="has 4 devices, the plan is for 8"):
        verify_plan(record, model, "cpu:4")
    with pytest.raises(PlanMismatchError):
        verify_plan(record, models.build("mlp-tiny", hidden=32, **SMALL), "local")


def sent(foreseen: int, made: int) -> KindRow:
    return KindRow("all-reduce", "x", 1, foreseen, 1, made, 2 * foreseen, 2 * made)


def report_of(**changed: Any) -> VerifyReport:
    kinds = (sent(1 << 20, 1 << 20),)
    stage = StageReport(0, kinds, (), (), 1 << 30, 1 << 30, 100, 100, ())
    return VerifyReport("m", "local", 8, (replace(stage, **changed),))


@pytest.mark.parametrize(("changed", "passes"), [
    ({}, True),
    ({"kinds": (sent(1 << 20, int(1.09 * (1 << 20))),)}, True),
    ({"kinds": (sent(1 << 20, int(1.2 * (1 << 20))),)}, False),
    ({"kinds": (sent(4, 0),)}, True),
    ({"kinds": (replace(sent(1 << 20, 1 << 20), foreseen_sent=1 << 20),)}, False),
    ({"predicted_bytes": int(0.98 * (1 << 30))}, True),
    ({"predicted_bytes": int(0.96 * (1 << 30))}, False),
    ({"predicted_bytes": int(1.11 * (1 << 30))}, False),
    ({"unforeseen": (Surprise("all-gather", "x", "step", "dot", "f32[8]", 32, 1, 0.009),)}, True),
    ({"unforeseen": (Surprise("all-gather", "x", "step", "dot", "f32[8]", 32, 1, 0.011),)}, False),
])
def test_tolerances(changed: dict[str, Any], passes: bool) -> None:
    report = report_of(**changed)
    assert report.passed == passes
    assert str(report).startswith("passed" if passes else "FAILED")
    assert json.loads(json.dumps(report.as_data()))["passed"] == passes
