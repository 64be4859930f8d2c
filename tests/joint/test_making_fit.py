"""A model that fits only rewritten is planned so, and runs as on one device; one that does not fit even so is refused
with what was tried."""

from dataclasses import replace
from typing import Any

import jax
import pytest

import planner
from planner import would_fit
from planner.core.alternative import WITHOUT
from planner.core.hardware import Cluster
from planner.core.plan_io import from_json, to_json
from planner.core.rewriting import Rewriting
from planner.errors import MemoryLimitError
from planner.joint.best_first import Gain
from planner.joint.looking import Task, planned_with
from planner.joint.making_fit import Fitted
from planner.joint.plan import ONLY_FITTED
from tests.joint.products import twice_wide

CPU = planner.cluster("cpu-8")
PINS: dict[str, Any] = {"stages": 1, "microbatches": 1, "recompute": "none", "cache": False}
RULE: dict[str, Any] = {"allow": ("reassociate_right",)}
BOTH = (("reassociate_right", "second/out, second/back"), ("reassociate_right", "first/out, first/back"))


@pytest.fixture(autouse=True)
def no_other_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else would make it fit is another test's."""
    monkeypatch.setattr(would_fit, "SECONDS", -1.0)


def devices_of(memory_bytes: float) -> Cluster:
    return replace(CPU, device=replace(CPU.device, memory_bytes=int(memory_bytes), memory_margin=0.0))


@pytest.fixture(scope="module")
def small() -> Cluster:
    """Devices that the model fits after both rewrites, and not after fewer."""
    need = [planner.plan(twice_wide(), CPU, rewrites=BOTH[:n], **PINS).peak_bytes for n in (0, 1, 2)]
    on = devices_of(1.1 * need[2])
    assert 1.1 * need[2] < need[1] < need[0]
    with pytest.raises(MemoryLimitError):
        planner.plan(twice_wide(), on, rewrites=BOTH[:1], **PINS)
    return on


def test_a_model_that_fits_only_rewritten_runs_as_on_one_device(small: Cluster) -> None:
    model, said = twice_wide(), list[str]()
    plan = planner.plan(model, jax.devices(), hardware=small, rewrite="joint", progress=said.append, **RULE, **PINS)
    record = plan.record
    assert {(r.rewriting.rule, r.rewriting.at) for r in record.rewrites} == set(BOTH)
    assert record.peak_bytes <= small.device.usable_bytes
    freed = [r.frees_bytes for r in record.rewrites]
    assert all(b >= 0 for b in freed) and sum(freed) > 0
    assert any("GB missing -> " in line for line in said) and any("does it fit with" in line for line in said)
    (beside,) = (b for b in record.baselines if b.name == WITHOUT)
    assert not beside.fits and beside.step_time_s is None and "GB per device are missing" in beside.note
    assert "without rewrites the model does not fit: 'twice wide' needs at least" in " ".join(plan.explain().split())
    assert from_json(to_json(record)) == replace(record, phases_s=())
    report = plan.check(model, steps=2)
    assert report.passed, report
    again = planner.plan(model, small, rewrite="joint", **RULE, **PINS).record
    assert to_json(again) == to_json(record)


def test_what_is_rewritten_for_one_device_may_fit_as_well(small: Cluster) -> None:
    record = planner.plan(twice_wide(), small, rewrite="first", **RULE, **PINS).record
    assert len(record.rewrites) == 2 and record.peak_bytes <= small.device.usable_bytes
    assert [b.fits for b in record.baselines if b.name == WITHOUT] == [False]


def test_once_it_fits_what_makes_it_faster_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What made it fit stays, and the plan with that alone is shown beside."""
    one = (Gain(Rewriting(*BOTH[0]), frees_bytes=1000),)
    need = planner.plan(twice_wide(), CPU, rewrites=BOTH[:1], **PINS).peak_bytes

    def one_is_enough(task: Task, _: MemoryLimitError) -> Fitted:
        return Fitted(planned_with(task.request, one), one, ())

    monkeypatch.setattr("planner.joint.plan.made_to_fit", one_is_enough)
    record = planner.plan(twice_wide(), devices_of(1.05 * need), rewrite="joint", **RULE, **PINS).record
    assert tuple((r.rewriting.rule, r.rewriting.at) for r in record.rewrites) == BOTH
    assert record.rewrites[0].frees_bytes == 1000 and record.rewrites[1].gain_s > 0
    beside = {b.name: b.step_time_s for b in record.baselines}
    fitted_s = beside[ONLY_FITTED]
    assert beside[WITHOUT] is None and fitted_s is not None and fitted_s > record.step_time_s


@pytest.mark.parametrize(("rule", "says"), [
    ("reassociate_right", "planned with reassociate_right at"), ("fuse_matmuls", "none frees memory")])
def test_what_does_not_fit_even_rewritten_is_said_with_what_was_tried(rule: str, says: str) -> None:
    with pytest.raises(MemoryLimitError, match="nor does it fit rewritten") as caught:
        planner.plan(twice_wide(), devices_of(1e5), rewrite="joint", allow=(rule,), **PINS)
    assert says in caught.value.what and caught.value.what.startswith("'twice wide' needs at least")
    assert "rewritten graphs priced" in caught.value.what
    assert caught.value.need_bytes is not None and caught.value.need_bytes > 1e5
    with pytest.raises(MemoryLimitError, match="before time was up: a larger budget_s"):
        planner.plan(twice_wide(), devices_of(1e5), rewrite="joint", allow=("reassociate_right",), budget_s=0.0, **PINS)
