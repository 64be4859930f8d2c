"""Unity's six kinds of parallelism: each is chosen where it wins, says so, and computes what one device does."""

from collections import Counter
from collections.abc import Callable, Mapping

import jax
import pytest
import six_kinds
from six_kinds import Kind

import planner
from planner.core.plan import HALO_OF, StagePlan
from planner.core.spec import Spec
from planner.costs.collectives import ALL_TO_ALL, PERMUTE
from tests.integration.hlo import collectives

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in six_kinds.kinds()}


def specs(plan: planner.Plan) -> dict[str, Spec]:
    """Of the parameters."""
    return {p.path: p.spec for p in plan.record.params}


def cut(spec: Spec) -> list[int]:
    """The dimensions that are."""
    return [d for d, axes in enumerate(spec) if axes]


def images(stage: StagePlan) -> list[list[int]]:
    """Which dimensions are cut, of each tensor of four that is no filter: of the images and their cotangents."""
    return [cut(spec) for _, spec in stage.specs if len(spec) == 4 and cut(spec)]


CHOSEN: Mapping[str, Callable[[planner.Plan], bool]] = {
    "data": lambda p: not any(map(cut, specs(p).values())),
    "model": lambda p: all(cut(spec)[-1] == 1 - n % 2 for n, spec in enumerate(specs(p).values())),
    "spatial": lambda p: images(p.stages[0]) == [[1]] * len(images(p.stages[0])) and len(images(p.stages[0])) > 4,
    "reduction": lambda p: cut(specs(p)["long"]) == [0],
    "pipeline": lambda p: [len(s.devices) for s in p.stages] == [1] * 8,
    "experts": lambda p: cut(specs(p)["up"]) == cut(specs(p)["down"]) == [0]
    and ALL_TO_ALL in {c.kind for c in p.stages[0].collectives},
    "sequence": lambda p: not any(map(cut, specs(p).values())),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_that_suits_a_model_is_chosen(name: str):
    plan = planner.plan(KINDS[name].model, KINDS[name].cluster)
    assert len(plan.stages) == (8 if name == "pipeline" else 1)
    assert KINDS[name].words in six_kinds.says(plan)
    assert CHOSEN[name](plan)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_it_is_faster_than_plans_without_it_and_computes_the_same(name: str):
    kind = KINDS[name]
    plan, other = six_kinds.compared(kind)
    assert plan.step_time_s < 0.7 * other.step_time_s
    assert kind.words not in six_kinds.says(other)
    report = plan.check(six_kinds.real(kind.model), jax.devices(), steps=3)
    assert report.passed, str(report)


def test_shards_of_an_image_exchange_halos_as_predicted_and_compute_the_same():
    """To the byte: rows of the image for the windows of the forward and the backward, and of cotangents."""
    model = six_kinds.real(six_kinds.convolutions(64, 8, 2))
    plan = planner.plan(model, planner.cluster("p3.16xlarge"), mesh_axes=(("rows", 8),))
    halos = [c for c in plan.stages[0].collectives if c.where.startswith(HALO_OF)]
    predicted = Counter({PERMUTE: sum(c.bytes for c in halos)})
    assert {c.kind for c in halos} == {PERMUTE} and sum(c.count for c in halos) == 2 * 5
    step, state = plan.compile(model, jax.devices())
    found: Counter[str] = Counter()
    for c in collectives(step.lower(state, model.batch).compile().as_text()):
        found[c.kind] += c.bytes if c.kind != "all-reduce" else 0
    assert +found == predicted
    report = plan.check(model, jax.devices(), steps=2)
    assert report.passed, str(report)
