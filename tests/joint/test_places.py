"""Several types of devices: rewrites are priced where stages are, each place with its own type, and plans gain."""

from pathlib import Path
from typing import Any

import pytest

import planner
from planner.cli.main import main
from planner.core.alternative import WITHOUT
from planner.core.pins import Pins
from planner.joint.looking import layers_of
from planner.joint.places import one_device, places_of
from planner.joint.pricing import Pricing
from planner.joint.reduced import reduced
from planner.prepared import Work, prepare
from planner.trace import trace_program
from tests.joint.products import chained
from tests.mixing.machines import fast_and_slow

FREE: dict[str, Any] = {"microbatches": 4, "cache": False}
RULE: dict[str, Any] = {"rewrite": "joint", "allow": ("reassociate_right",)}
WAYS: dict[str, dict[str, Any]] = {"pipeline": {"stages": 2, "replicas": 1}, "shares": {"replicas": 2},
                                   "one type": {"stages": 1, "replicas": 1}}


@pytest.fixture(scope="module", params=WAYS.values(), ids=list(WAYS))
def plain(request: pytest.FixtureRequest) -> planner.Plan:
    return planner.plan(chained(), fast_and_slow(), **FREE, **request.param)


def test_places_are_of_the_types_that_stages_are_on(plain: planner.Plan) -> None:
    record, on = plain.record, fast_and_slow()
    places = places_of(record, Pins())
    assert sum(p.share for p in places) == pytest.approx(1)
    kinds = {on.kind_of(s.devices[0]).device for s in record.stages}
    assert {p.device for p in places} == kinds
    assert all(mesh.mesh.device_count == 4 for p in places for mesh in p.meshes)
    if record.replicas:
        assert [(p.replica, p.ranks, p.hardware) for p in places] == [(0, 1, on.parts[0]), (1, 1, on.parts[1])]
        assert [p.share for p in places] == [r.microbatches / 4 for r in record.replicas]
    elif len(record.stages) == 2:
        assert [p.hardware for p in places] == [on, on] and {p.ranks for p in places} == {2}
    else:
        assert [p.hardware for p in places] == [on.parts[0]]
    assert one_device(on).device == on.parts[0].device


def test_prices_are_above_their_bound_and_near_the_plan(plain: planner.Plan) -> None:
    record = plain.record
    program = trace_program(chained(), 4)
    pricing = Pricing(record.cluster.device, Pins(), places_of(record, Pins()), Work.of(program))
    whole, _ = reduced(program, layers_of(record), lambda p: prepare(p, record.cluster.device).layers)
    price = pricing.price(program, whole)
    assert price.fits and pricing.floor_s(program.forward, 4) <= price.seconds
    if len(record.stages) == 1:
        assert price.seconds == pytest.approx(record.step_time_s, rel=0.02)
    if record.replicas:
        assert price.seconds == pytest.approx(max(r.step_time_s for r in record.replicas), rel=0.02)


@pytest.mark.parametrize("way", ["pipeline", "shares"])
def test_rewrites_gain_on_several_types(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on = fast_and_slow()
    joint = planner.plan(chained(), on, **FREE, **RULE, **WAYS[way])
    (beside,) = (b for b in joint.record.baselines if b.name == WITHOUT)
    assert beside.step_time_s is not None and joint.record.step_time_s < 0.9 * beside.step_time_s
    assert [r.rewriting.at for r in joint.record.rewrites] == ["out, back"]
    assert joint.record.rewrites[0].gain_s > 0
    assert {on.part_of(s.devices[0]) for s in joint.record.stages} == {0, 1}
    assert not any("rewrites" in line for line in joint.record.warnings)
    if way == "pipeline":
        joint.save(tmp_path / "plan.json")
        assert main(["explain", str(tmp_path / "plan.json")]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "reassociate_right ((a·b)·c -> a·(b·c)) at out, back, in 1 place, gains" in said
        assert "without rewrites:" in said


def test_no_rewrite_that_does_not_pay_is_taken_on_several_types() -> None:
    plain, asked = (planner.plan(chained(), fast_and_slow(), **FREE, **WAYS["pipeline"], **rewrite).record
                    for rewrite in ({}, {"rewrite": "joint", "allow": ("reassociate_left",)}))
    assert not asked.rewrites and asked.step_time_s == plain.step_time_s
