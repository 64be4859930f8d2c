"""Plans with host memory: found where nothing else fits, priced by the link, and running as one device does."""

from dataclasses import replace

import jax
import pytest

import planner
from planner import fitting, models, offloading
from planner.api import request_for
from planner.core.host import HostLink
from planner.core.plan import DEVICE, HOST, MemoryParts
from planner.costs.host import activations_s, update_s
from planner.errors import MemoryLimitError, PinError
from planner.search import Found
from planner.too_large import usable_bytes

LINK = HostLink(2e9, 2e9, 1.5e9, 1e-5, 10**10)
ONE_STAGE = {"recipe": "data", "stages": 1, "microbatches": 1}
LARGEST = 256 * 64  # elements of the largest parameter
TIGHT = 2_600_000  # as it takes 2.9 MB at least, and 2.0 with all its optimizer state elsewhere


def machine(memory_bytes: int | None = None, host: HostLink | None = LINK) -> planner.Cluster:
    base = planner.cluster("cpu-8")
    device = base.device if memory_bytes is None else replace(base.device, memory_bytes=memory_bytes)
    return replace(base, device=device, host=host)


@pytest.fixture(scope="module")
def model() -> planner.Model:
    built = models.build("gpt-tiny", dtype="float32", batch_size=16, layers=2)
    return replace(built, params=models.init(built))


def test_what_has_to_goes_to_the_host_where_nothing_fits_without(model) -> None:
    with pytest.raises(MemoryLimitError, match="offload='auto' instead of 'none'"):
        planner.plan(model, machine(TIGHT), offload="none", **ONE_STAGE)
    plan = planner.plan(model, machine(TIGHT), **ONE_STAGE)
    kinds = {p.opt_memory for p in plan.record.params}
    assert kinds == {HOST, DEVICE}, "no more goes than has to"
    (stage,) = plan.record.stages
    assert stage.memory.total_bytes <= plan.record.cluster.device.usable_bytes
    assert stage.time.host_batch_s == pytest.approx(update_s(stage.memory.host_bytes, 2 * 4 * LARGEST, LINK))
    assert "on hosts" in str(plan) and "optimizer state of" in str(plan)
    assert planner.Plan(plan.record).check(model, jax.devices(), steps=2).passed


@pytest.mark.parametrize(("hopes", "held", "searched"), [(False, 2, [1.0]), (True, 2, [1.0, fitting.LOOSER]),
                                                        (False, 0.5, [1.0, fitting.LOOSER])])
def test_what_devices_hold_anyway_tells_whether_looser_limits_are_tried(model, monkeypatch, hopes, held, searched):
    request = replace(request_for(model, machine(), cache=False), progress=lambda _: None)
    usable, asked = usable_bytes(request.cluster), []

    def none_fits(request, known):
        asked.append(usable_bytes(request.limits) / usable)
        known.held = held * usable
        raise MemoryLimitError("too large", "use more devices")

    monkeypatch.setattr(fitting, "search", none_fits)
    with pytest.raises(MemoryLimitError):
        fitting.plan_to_fit(request, hopes=hopes)
    assert asked == pytest.approx(searched)


def test_recipes_beside_it_have_the_memory_that_there_is() -> None:
    small, two = models.build("mlp-tiny", dtype="float32", batch_size=16), {"microbatches": 1, "recompute": "none"}
    cluster = replace(machine(), devices_per_node=2)
    least = min(b.peak_bytes for b in planner.plan(small, cluster, **two).record.baselines if b.peak_bytes)
    tight = replace(cluster, device=replace(cluster.device, memory_bytes=int(0.9 * least)))
    found = planner.plan(small, tight, **two).record
    assert {p.opt_memory for p in found.params} != {DEVICE}
    assert found.baselines and not any(b.fits for b in found.baselines)


def test_what_nearly_fits_is_looked_for_with_a_little_less_memory(model, monkeypatch) -> None:
    """Plans that take all they are told of, and are faster for it, of which 0.45 of what there is can go."""
    request = replace(request_for(model, machine(), cache=False), progress=lambda _: None)
    usable = request.cluster.device.usable_bytes
    one = planner.plan(model, machine(), **ONE_STAGE).record
    asked = []

    def sized(share: float):
        (stage,) = one.stages
        return replace(one, step_time_s=1 / share, stages=(replace(stage, memory=MemoryParts(
            int(share * usable), 0, 0, 0, 0)),))

    def looser(request, known, scale):
        asked.append((round(scale, 3), request.rough))
        return Found(sized(scale), None)

    def moved(request, found):
        yield replace(sized(offloading.fullness(found.record, request.cluster) - 0.45),
                      step_time_s=found.record.step_time_s)

    monkeypatch.setattr(offloading, "_looser", looser)
    monkeypatch.setattr(offloading, "_moved", moved)
    monkeypatch.setattr(offloading, "LOOSER", (1.1, 1.5, 3.0))
    found = offloading._offloaded(request, None, None)
    assert asked == [(1.1, True), (1.5, True), (1.4, True), (3.0, True), (1.4, False)], \
        "with 1.5 it takes 1.05 of what there is; with 3.0 it is nowhere near"
    assert found.step_time_s == pytest.approx(1 / 1.4, rel=1e-3) and offloading.fits(found, request.cluster)


def test_nothing_is_moved_where_all_fits(model) -> None:
    plain, same = (planner.plan(model, machine(), offload=word, **ONE_STAGE).record for word in (None, "auto"))
    assert {p.opt_memory for p in plain.params} == {p.opt_memory for p in same.params} == {DEVICE}
    assert plain.step_time_s == same.step_time_s


def test_all_optimizer_state_if_asked_for(model) -> None:
    before, after = (planner.plan(model, machine(), offload=word, **ONE_STAGE).record for word in ("none", "optimizer"))
    assert {p.opt_memory for p in after.params} == {HOST}
    moved = after.stages[0].memory.host_bytes
    assert moved == pytest.approx(before.stages[0].memory.opt_state_bytes, rel=1e-3)
    assert after.step_time_s - before.step_time_s == pytest.approx(update_s(moved, 2 * 4 * LARGEST, LINK))


def test_all_activations_of_a_pipeline_if_asked_for(model) -> None:
    pins, slow = {"recipe": "data", "stages": 4, "microbatches": 8}, HostLink(1e7, 1e7, 1e7, 1e-5, 10**10)
    before, after = (planner.plan(model, machine(host=slow), offload=word, **pins).record
                     for word in ("none", "activations"))
    assert [bool(s.offload) for s in after.stages] == [s.in_flight >= 3 for s in after.stages]
    first, last = after.stages[0], after.stages[-1]
    assert first.memory.host_bytes > 0 == last.memory.host_bytes
    assert first.memory.total_bytes < before.stages[0].memory.total_bytes
    assert after.step_time_s > before.step_time_s


def test_one_stage_keeps_its_activations(model) -> None:
    with pytest.raises(PinError, match="3 microbatches in flight"):
        planner.plan(model, machine(), offload="activations", **ONE_STAGE)


def test_activations_that_would_only_be_carried_about_stay(model) -> None:
    with pytest.raises(PinError, match="3 microbatches in flight"):
        planner.plan(model, machine(), offload="activations", recipe="data", stages=2, microbatches=4)


@pytest.mark.parametrize("word", ["optimizer", "activations", "auto"])
def test_machines_whose_link_is_unknown_are_named(model, word) -> None:
    with pytest.raises(PinError, match="host memory"):
        planner.plan(model, machine(host=None), offload=word)
    with pytest.raises(PinError, match="none of what can be kept"):
        planner.plan(model, machine(), offload="everything")


@pytest.mark.slow
def test_host_memory_has_a_limit_too(model) -> None:
    with pytest.raises(MemoryLimitError):
        planner.plan(model, machine(TIGHT, replace(LINK, memory_bytes=1000)), **ONE_STAGE)


def test_devices_share_a_way_to_the_host_while_all_are_busy() -> None:
    link = replace(LINK, shared_by=2)
    assert link.while_busy(1) == LINK
    assert link.while_busy(8).both_bytes_per_s == LINK.both_bytes_per_s / 2
    assert update_s(1.5e9, 0.5e9, LINK) == pytest.approx(1 + 0.25 + 2e-5)


def test_activations_hide_beside_the_tasks_around_them() -> None:
    assert activations_s(2e6, 1.0, 1.0, LINK) == 0
    assert activations_s(2e6, 0.0, 1.0, LINK) == pytest.approx(1e-3 + 1e-5)
    assert activations_s(2e6, 0.0, 0.0, LINK) == pytest.approx(2e-3 + 2e-5)
