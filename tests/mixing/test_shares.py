"""Replicas on several types, each with a share of the batch: the best shares, priced whole, and right when run."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.check.inputs import random_batch, with_numbers
from planner.core.hardware import Cluster, Link
from planner.core.host import HostLink
from planner.core.mixed import mixed
from planner.core.plan import PlanRecord
from planner.core.plan_check import PlanSenseError, check_plan_record
from planner.core.plan_io import from_json, to_json
from planner.core.replicas import devices_of
from planner.costs.replica_sync import exchange_s, with_received
from planner.errors import MemoryLimitError, PinError, PlanFileError, PlannerError
from planner.model import Model
from planner.moving import moves
from planner.planned import Plan
from planner.report.causes import step_causes
from planner.report.explain import explain
from planner.report.kinds import by_kind
from planner.shares import Replicas, balanced, first_shares
from planner.simulate import Work, simulate
from tests.mixing.machines import cpus, fast_and_slow
from tests.mixing.test_mixing import MODEL, TRACE, record_on
from tests.runtime.models import mlp, stateful, tied

TWO_TO_ONE = mixed([cpus("fast", 2, flops=2e5, link=1e10), cpus("slow", 2, flops=1e5, link=1e10)], Link(1e10, 1e-7))


SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def shared() -> PlanRecord:
    return record_on(TWO_TO_ONE, microbatches=8, replicas=2)


tables = st.lists(st.lists(st.floats(0.0, 10.0), min_size=9, max_size=9), min_size=2, max_size=3)


@given(tables, st.integers(3, 9), st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3))
def test_shares_are_the_best_of_all(steps: list[list[float]], total: int, speeds: list[float]) -> None:
    """Brute force over shares; more microbatches never take less."""
    times = np.cumsum(steps, axis=1)
    found = balanced(total, lambda n, m: float(times[n, m - 1]), speeds[:len(steps)], 100)
    assert sum(found) == total and min(found) >= 1
    every = [s for s in product(range(1, total + 1), repeat=len(steps)) if sum(s) == total]
    best = min(max(times[n, m - 1] for n, m in enumerate(s)) for s in every)
    assert max(times[n, m - 1] for n, m in enumerate(found)) == pytest.approx(best)


def test_first_shares_are_as_speeds() -> None:
    assert first_shares(8, [3.0, 1.0]) == [6, 2] and first_shares(4, [1e6, 1.0]) == [3, 1]
    assert first_shares(3, [1.0, 1.0, 1e9]) == [1, 1, 1] and sum(first_shares(17, [3.0, 2.0, 7.0])) == 17


def test_the_shares_of_a_plan_are_the_best_by_trying_all(shared: PlanRecord) -> None:
    asked = replace(_request(), pins=replace(_request().pins, microbatches=8))
    replicas = Replicas(asked, (0, 1), 8)
    every = {m: max(replicas.time_s(0, m), replicas.time_s(1, 8 - m)) for m in range(1, 8)}
    first, second = shared.replicas
    assert max(first.step_time_s, second.step_time_s) == pytest.approx(min(every.values()))
    assert (first.microbatches, second.microbatches) == (5, 3)
    assert shared.lower_bound_s <= min(every.values())


def _request() -> Any:
    from planner.core.pins import Pins
    from planner.request import Request

    return Request(TRACE, MODEL.name, MODEL.kind, MODEL.batch_size, TWO_TO_ONE, Pins(), "0", progress=lambda _: None)


def test_it_is_priced_whole_and_said(shared: PlanRecord) -> None:
    slowest = max(r.step_time_s for r in shared.replicas)
    assert shared.step_time_s == pytest.approx(slowest + shared.sync_s)
    assert shared.sync_s > exchange_s(TWO_TO_ONE, shared.replicas) > 0
    assert sum(step_causes(shared).values()) == pytest.approx(shared.step_time_s)
    fast, slow = by_kind(shared)
    assert fast.work == pytest.approx(5 / 8) and slow.work == pytest.approx(3 / 8)
    assert [shared.microbatches_of(s) for s in shared.stages] == [5, 3]
    text, table = explain(shared), str(Plan(shared))
    assert "2 × fast cpu of 4 GB got 5 microbatches of 2, 62 % of the batch" in text
    assert "5 microbatches on 2 × fast cpu" in table and "several types" in table


def test_the_exchange_is_what_the_busiest_wire_carries() -> None:
    """Whole gradients each way where one device of each part reads them all."""
    on = mixed([cpus("a", 1), cpus("b", 1)], Link(1e6, 1e-3))
    found = record_on(on, microbatches=4, replicas=2)
    size = sum(int(np.prod(p.shape)) * 4 for p in found.params)
    assert exchange_s(on, found.replicas) == pytest.approx(size / 1e6 + 1e-3)
    narrow = replace(on, between=Link(5e5, 1e-3))
    assert exchange_s(narrow, found.replicas) == pytest.approx(size / 5e5 + 1e-3)


def test_gradients_that_come_take_room(shared: PlanRecord) -> None:
    for replica in shared.replicas:
        (stage,) = replica.stages
        m = stage.memory
        mine = sum(np.prod(p.shape) * 4 / 2 ** bool(any(p.update_spec)) for p in replica.params)
        assert m.total_bytes >= m.params_bytes + m.opt_state_bytes + m.grads_bytes + int(2 * mine)
        many = with_received(replica, 100).stages[0].memory
        assert many.total_bytes == m.params_bytes + m.opt_state_bytes + m.grads_bytes + int(100 * mine)


def test_it_is_played_and_drawn(shared: PlanRecord, tmp_path: Path) -> None:
    line = simulate(shared)
    assert line.step_time_s == pytest.approx(shared.step_time_s, rel=0.01)
    updates = [i for i in line.intervals if i.work is Work.UPDATE]
    syncs = [i for i in line.intervals if i.work is Work.SYNC and i.microbatch is None]
    assert {i.stage for i in updates} == {i.stage for i in syncs} == {0, 1}
    assert all(i.end_s == line.step_time_s for i in updates)
    done = max(i.end_s for i in line.intervals if i.work is Work.BACKWARD)
    assert all(max(i.start_s for i in syncs if i.stage == n) >= done * (1 - 1e-9) for n in (0, 1))
    sums = simulate(shared, intervals=False)
    assert sums.step_time_s == pytest.approx(line.step_time_s) and sums.bubble == pytest.approx(line.bubble)
    Plan(shared).plot(tmp_path / "shares.png")
    assert (tmp_path / "shares.png").stat().st_size > 10_000


def test_it_is_saved_and_checked(shared: PlanRecord) -> None:
    assert from_json(to_json(shared)) == replace(shared, phases_s=())
    first, second = shared.replicas
    for spoilt, said in (
            ({"replicas": (first,)}, "has one"), ({"replicas": (second, first)}, "no part of"),
            ({"microbatches": 4}, "batch_size"), ({"stages": shared.stages[:1]}, "not those of its replicas"),
            ({"replicas": (first, replace(second, microbatches=2))}, "batch_size"),
            ({"replicas": (first, replace(second, stages=()))}, "is empty"), ({"params": ()}, "params")):
        with pytest.raises(PlanSenseError, match=said):
            check_plan_record(replace(shared, **spoilt))  # type: ignore[arg-type]
    with pytest.raises(PlanFileError, match="checksum"):
        from_json(to_json(shared).replace('"sync_s": ', '"sync_s": 1'))


@pytest.mark.parametrize(("make", "pins"), [
    (tied, {"stages": 1}), (mlp, {"stages": 2, "schedule": "zb-h1"}), pytest.param(tied, {"stages": 2}, marks=SLOW),
    pytest.param(mlp, {"recipe": "fsdp", "stages": 1}, marks=SLOW),
    pytest.param(mlp, {"microbatches": 8, "schedule": "interleaved", "stages": 4}, marks=SLOW)])
def test_it_trains_as_one_device_does(make: Any, pins: dict[str, Any]) -> None:
    """Losses of several steps, gradients, parameters and optimizer state."""
    model = make()
    plan = planner.plan(model, jax.devices()[:8], hardware=fast_and_slow(), replicas=2, **{"microbatches": 4, **pins})
    assert len(plan.record.replicas) == 2 and len(plan.stages) == 2 * pins["stages"]
    report = plan.check(model, jax.devices()[:8], steps=3)
    assert report.passed, report


@pytest.fixture(scope="module")
def uneven() -> tuple[Model, Plan]:
    model = mlp(layers=3)
    on = mixed([cpus("fast", 4, flops=3e6, link=1e10), cpus("slow", 2, flops=2e6, link=1e10)], Link(1e9, 1e-6))
    plan = planner.plan(model, jax.devices()[:6], hardware=on, replicas=2, microbatches=8)
    shares = [r.microbatches for r in plan.record.replicas]
    assert sum(shares) == 8 and shares[0] > shares[1]
    return model, plan


def test_uneven_shares_weigh_as_they_are(uneven: tuple[Model, Plan]) -> None:
    model, plan = uneven
    assert plan.check(model, jax.devices()[:6], steps=3).passed


def test_copies_stay_equal_and_go_through_a_checkpoint(uneven: tuple[Model, Plan], tmp_path: Path) -> None:
    model, plan = uneven
    model = with_numbers(model, 0)
    step, state = plan.compile(model, jax.devices()[:6])
    saver = planner.Checkpoints(tmp_path, plan, every=2)
    for n in range(2):
        state, _ = step(state, random_batch(model, n))
        saver.save(n + 1, state)
    saver.close()
    (copy,) = state.copies
    for mine, other in zip(jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves(
            (copy.params, copy.opt_state)), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
    resumed = planner.Checkpoints(tmp_path, plan).resume(model, jax.devices()[:6])
    _, before = step(state, random_batch(model, 2))
    _, after = resumed.step(resumed.state, random_batch(model, 2))
    assert float(before["loss"]) == float(after["loss"])


def test_its_programs_are_verified() -> None:
    model = mlp()
    plan = planner.plan(model, fast_and_slow(), replicas=2, stages=1, microbatches=4)
    report = plan.verify(model, "cpu:8")
    assert [s.index for s in report.stages] == [0, 1] and report.passed, report
    assert any("exchange" in note for note in report.notes)


@pytest.mark.parametrize(("make", "on", "pins", "said"), [
    (mlp, fast_and_slow(), {"replicas": 3}, "3 replicas on 2 types"),
    (mlp, cpus("fast", 4), {"replicas": 2}, "2 replicas on 1 type"),
    (mlp, fast_and_slow(), {"replicas": 0}, "0 replicas"),
    (mlp, fast_and_slow(), {"replicas": 2, "microbatches": 1}, "one microbatch"),
    (stateful, fast_and_slow(), {"replicas": 2}, "state goes from each microbatch"),
    (mlp, mixed([cpus("a", 2), cpus("b", 2, memory=2e3)]), {"replicas": 2}, "fit|memory|GB")])
def test_what_cannot_be_is_refused(make: Any, on: Cluster, pins: dict[str, Any], said: str) -> None:
    with pytest.raises((PinError, MemoryLimitError, PlannerError), match=said):
        planner.plan(make(), on, **{"microbatches": 4, "stages": 1, "cache": False, **pins})


def test_slow_links_between_types_rule_it_out() -> None:
    on = replace(TWO_TO_ONE, between=Link(1.0, 1.0))
    found = record_on(on, microbatches=8)
    (beside,) = (b for b in found.baselines if b.name == "batch shares")
    assert not found.replicas and "at best" in beside.note


def test_host_memory_is_that_of_each_replica() -> None:
    host = HostLink(2e9, 2e9, 1.5e9, 1e-5, 10**10)
    on = mixed([replace(cpus("a", 4), host=host), replace(cpus("b", 4, flops=1e9), host=host)], Link(1e9, 1e-5))
    found = planner.plan(mlp(), on, replicas=2, microbatches=4, offload="optimizer", recipe="data", stages=1).record
    assert all(r.stages[0].memory.host_bytes > 0 for r in found.replicas)


def test_a_lost_node_of_a_replica_is_made_good_by_the_other(shared: PlanRecord) -> None:
    """What only one replica lost comes from the other, not from a checkpoint."""
    update = TRACE.known[8].update
    same = moves(shared, shared, update, tuple(range(4)))
    assert (same.moved_bytes, same.checkpoint_bytes) == (0, 0) and len(same.devices) == 4
    assert [d.stage for d in same.devices] == [0, 0, 1, 1]
    lost = moves(shared, shared, update, (None, None, 2, 3))
    assert lost.checkpoint_bytes == 0 and lost.moved_bytes > 0
    assert {p.source for d in lost.devices for p in d.pieces} <= {2, 3}
    assert all(d in devices_of(shared, 1) for d in (2, 3))
