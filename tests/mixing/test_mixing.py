"""Plans for several types of devices: never worse than on one of them, honest about each, and right when run."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import planner
from planner.core.hardware import Cluster, Link
from planner.core.mixed import mixed
from planner.core.pins import Pins
from planner.core.plan import PlanRecord
from planner.core.plan_io import from_json, to_json
from planner.errors import MemoryLimitError, MeshError, PlannerError
from planner.mixing import plan_any
from planner.report.explain import explain
from planner.report.kinds import by_kind
from planner.request import Remembered, Request
from planner.simulate import simulate
from planner.trace import trace_program
from tests.mixing.machines import cpus, fast_and_slow
from tests.runtime.models import mlp, tied

MODEL = mlp(layers=6)
TRACE = Remembered(partial(trace_program, MODEL))


def record_on(cluster: Cluster, **pins: Any) -> PlanRecord:
    asked = Request(TRACE, MODEL.name, MODEL.kind, MODEL.batch_size, cluster, Pins(**pins), "0",
                    progress=lambda _: None)
    return plan_any(asked)


speeds, memories, rates = st.floats(1e8, 1e11), st.floats(3e4, 1e9), st.floats(1e7, 1e10)
types = st.builds(lambda count, flops, memory, link: cpus("x", count, flops=flops, memory=memory, link=link),
                  st.sampled_from([1, 2, 4]), speeds, memories, rates)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(types, types, rates)
def test_never_worse_than_the_best_on_one_type(a: Cluster, b: Cluster, between: float) -> None:
    alone = []
    for part in (a, b):
        try:
            alone.append(record_on(part, microbatches=4).step_time_s)
        except MemoryLimitError:
            continue
    try:
        found = record_on(mixed([replace(a, name="a"), replace(b, name="b")], Link(between, 1e-5)), microbatches=4)
    except MemoryLimitError:
        assert not alone
        return
    assert found.step_time_s <= min(alone, default=float("inf")) * (1 + 1e-9)
    assert not found.replicas or found.step_time_s > max(r.step_time_s for r in found.replicas)
    assert found.lower_bound_s <= found.step_time_s
    for stage in found.stages:
        parts = {found.cluster.part_of(d) for d in stage.devices}
        assert len(parts) == 1  # no stage straddles two types
        assert stage.memory.total_bytes <= found.cluster.kind_of(stage.devices[0]).device.usable_bytes
    assert from_json(to_json(found)) == replace(found, phases_s=())


def test_slow_devices_get_fewer_layers_and_both_are_used() -> None:
    on = mixed([cpus("fast", 2, flops=2e5, link=1e10), cpus("slow", 2, flops=1e5, link=1e10)], Link(1e10, 1e-7))
    found = record_on(on, microbatches=8, replicas=1)
    fast, slow = by_kind(found)
    assert fast.stages and slow.stages and len(fast.layers) > len(slow.layers)
    assert fast.speed == pytest.approx(2 / 3) and fast.work == pytest.approx(2 / 3, abs=0.1)
    assert {b.name for b in found.baselines} == {"fast alone", "slow alone"}
    assert all(b.step_time_s > found.step_time_s for b in found.baselines if b.step_time_s)
    text = explain(found)
    assert "2 × fast cpu: stage" in text and "of the speed" in text
    assert simulate(found).step_time_s == pytest.approx(found.step_time_s, rel=0.1)


def test_types_that_would_only_slow_it_down_are_idle() -> None:
    on = mixed([cpus("fast", 2, flops=1e10), cpus("slow", 2, flops=1e5)], Link(1e6, 1e-2))
    found = record_on(on, microbatches=4)
    assert {d for s in found.stages for d in s.devices} <= {0, 1}
    assert by_kind(found)[1].stages == () and "idle" in explain(found)


@pytest.mark.parametrize("pins", [
    {"stages": 2, "mesh_axes": (("data", 4),)},  # one stage on each type
    {"stages": 4, "mesh_axes": (("data", 2),), "schedule": "zb-h1"},
    {"stages": 1, "mesh_axes": (("data", 4),), "replicas": 1}])  # on the fast ones, the others idle
@pytest.mark.parametrize("make", [mlp, tied])
def test_two_types_of_devices_train_as_one(make: Any, pins: dict[str, Any]) -> None:
    model = make()
    plan = planner.plan(model, jax.devices()[:8], hardware=fast_and_slow(), microbatches=4, **pins)
    used = {plan.cluster.part_of(d) for s in plan.record.stages for d in s.devices}
    assert used == ({0} if pins["stages"] == 1 else {0, 1})
    report = plan.check(model, jax.devices()[:8])
    assert report.passed, report
    assert "fast cpu" in repr(plan) and "kinds of devices" in str(plan)


def test_a_mixed_plan_is_drawn_and_verified(tmp_path: Any) -> None:
    model = mlp()
    plan = planner.plan(model, fast_and_slow(), stages=2, mesh_axes=(("data", 4),), microbatches=4)
    plan.plot(tmp_path / "mixed.png")
    assert (tmp_path / "mixed.png").stat().st_size > 10_000
    report = plan.verify(model, "cpu:8")
    assert len(report.stages) == 2 and report.passed, report


def test_clusters_are_spelled_with_a_plus() -> None:
    found = planner.cluster("dgx-a100:2+p3.16xlarge:1x4")
    assert [(p.name, p.nodes, p.devices_per_node) for p in found.parts] == [("dgx-a100", 2, 8), ("p3.16xlarge", 1, 4)]
    assert found.device_count == 20 and found.nodes == 3 and found.name == "dgx-a100:2+p3.16xlarge:1x4"
    assert [found.part_of(d) for d in (0, 15, 16, 19)] == [0, 0, 1, 1]
    assert [found.node_of(d) for d in (0, 8, 16, 19)] == [0, 1, 2, 2]
    slower = min(p.inter_node.bandwidth_bytes_per_s for p in found.parts)
    assert found.between is not None and found.between.bandwidth_bytes_per_s == slower
    given_ = planner.cluster("dgx-a100+dgx-h100", between=Link(1.0, 2.0))
    assert given_.between == Link(1.0, 2.0)


@pytest.mark.parametrize(("make", "said"), [
    (lambda: planner.cluster("dgx-a100:x+dgx-h100"), "name:nodes"),
    (lambda: planner.cluster("dgx-a100:two+dgx-h100"), "name:nodes"),
    (lambda: planner.cluster("dgx-a100:2+dgx-h10"), "did you mean dgx-h100"),
    (lambda: planner.cluster("dgx-a100:2+dgx-h100", nodes=2), "beside the parts"),
    (lambda: planner.cluster("dgx-a100", between=Link(1.0, 1.0)), "has none"),
    (lambda: planner.cluster("dgx-a100+cpu-8"), "share cores"),
    (lambda: planner.cluster("dgx-a100+tpu-v5p"), "different compilers"),
    (lambda: mixed([cpus("a", 2)]), "1 parts"),
    (lambda: mixed([fast_and_slow(), cpus("a", 2)]), "mixed already")])
def test_what_does_not_go_together_is_refused(make: Any, said: str) -> None:
    with pytest.raises((MeshError, PlannerError), match=said):
        make()


def test_where_nothing_fits_the_devices_are_named() -> None:
    small = mixed([cpus("a", 2, memory=1e3), cpus("b", 2, memory=2e3)])
    with pytest.raises(MemoryLimitError, match="a cpu"):
        record_on(small, microbatches=4)


def test_what_several_types_cannot_have_is_said() -> None:
    found = record_on(fast_and_slow(), microbatches=4, schedule="interleaved", stages=4, mesh_axes=(("data", 2),),
                      replicas=1)
    (several,) = (b for b in found.baselines if b.name == "several types")
    assert several.note == "several stages per rank are not built over several types"
    assert {found.cluster.part_of(d) for s in found.stages for d in s.devices} == {0}
    free = record_on(fast_and_slow(), microbatches=4, replicas=1)
    assert any("several stages per rank were not searched" in w for w in free.warnings)
