"""Plans for a slice of TPUs run on devices in the order that the torus wants, and give what one device gives."""

from dataclasses import dataclass

import jax
import pytest

import planner
from planner import models
from planner.core.plan_io import from_json, to_json
from planner.emit.meshes import laid_out, stage_mesh


@pytest.mark.parametrize("pins", [{"mesh_axes": (("data", 2), ("model", 4)), "recipe": "megatron"},
                                  {"mesh_axes": (("data", 2), ("model", 2)), "stages": 2}])
def test_a_plan_for_a_slice_runs(pins: dict) -> None:
    model = models.build("mlp-tiny", batch_size=16, dtype="float32")
    plan = planner.plan(model, planner.cluster("tpu-v5e"), microbatches=2, **pins)
    first = plan.record.stages[0]
    assert first.order and sorted(first.order) == list(range(len(first.devices)))
    assert from_json(to_json(plan.record)).stages == plan.record.stages
    mesh = stage_mesh(first, jax.devices())
    assert [d.id for d in mesh.devices.flat] == [jax.devices()[first.devices[n]].id for n in first.order]
    assert "torus of 2 × 4" in str(plan)
    report = plan.check(model, jax.devices()[:8])
    assert report.passed, report


@dataclass(frozen=True)
class Chip:
    id: int
    coords: tuple[int, int, int]


def test_chips_are_taken_by_their_coordinates() -> None:
    on = planner.cluster("tpu-v5e", nodes=2)
    mixed = [Chip(n, (n % 4, n // 4, 0)) for n in (3, 9, 14, 0, 8, 5, 11, 1, 15, 2, 4, 10, 6, 12, 7, 13)]
    found = laid_out(on, mixed)
    host = [c.coords[:2] for c in found[:8]]
    assert sorted(host) in ([(x, y) for x in range(2) for y in range(4)], [(x, y) for x in range(4) for y in range(2)])
    assert laid_out(on, mixed[:8]) == mixed[:8]  # no slice of the planned shape
    assert laid_out(planner.cluster("cpu-8"), mixed) == mixed
