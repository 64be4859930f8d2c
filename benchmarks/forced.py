"""Forced plans: one model under many pins, so that what is predicted can be held against what is measured.

Every model meets the same table of pins: recipes on meshes of one and two axes, microbatches, stages under both
schedules, recomputation, meshes that the planner fills as it likes, and parameters pinned to be split. Pins that are
refused are left out, and so is a plan that runs the same program as an earlier one.

In: a model's name. Out: `Forced` plans, in the order of the table.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.core.plan import PlanRecord
from planner.errors import PlannerError

CASES: Mapping[str, Mapping[str, Any]] = {
    "gpt-tiny": {"batch_size": 32, "sequence": 64, "hidden": 192, "vocabulary": 1024},
    "llama-tiny": {"batch_size": 32, "sequence": 64, "hidden": 256, "inner": 512, "layers": 3, "vocabulary": 1024},
    "moe-tiny": {"batch_size": 32, "sequence": 64, "hidden": 128, "group": 64, "vocabulary": 1024},
    "wresnet-tiny": {"batch_size": 32},
    "vit-tiny": {"batch_size": 32, "image": 32, "hidden": 192},
}
"""Model -> settings with which most plans' steps take 50 to 500 ms on two cores."""

_ONE, _TWO_BY_FOUR = (("x", 8),), (("x", 2), ("y", 4))

TABLE: Mapping[str, Mapping[str, Any]] = {
    "replicated": {"recipe": "none", "stages": 1, "microbatches": 1},
    **{f"{recipe} m{m}": {"recipe": recipe, "stages": 1, "microbatches": m}
       for recipe in ("data", "fsdp", "tensor") for m in (1, 2, 4) if (recipe, m) != ("tensor", 4)},
    "data recomputed": {"recipe": "data", "stages": 1, "microbatches": 1, "recompute": True},
    "fsdp m2 recomputed": {"recipe": "fsdp", "stages": 1, "microbatches": 2, "recompute": True},
    "data 4 model 2": {"recipe": "megatron", "mesh_axes": (("data", 4), ("model", 2)), "microbatches": 1},
    "data 4 model 2 m2": {"recipe": "megatron", "mesh_axes": (("data", 4), ("model", 2)), "microbatches": 2},
    "data 2 model 4": {"recipe": "megatron", "mesh_axes": (("data", 2), ("model", 4)), "microbatches": 1},
    "fsdp 4 model 2": {"recipe": "megatron", "mesh_axes": (("fsdp", 4), ("model", 2)), "microbatches": 1},
    "data 2 fsdp 4": {"recipe": "megatron", "mesh_axes": (("data", 2), ("fsdp", 4)), "microbatches": 1},
    "free 8": {"mesh_axes": _ONE, "microbatches": 1},
    "free 8 m4": {"mesh_axes": _ONE, "microbatches": 4},
    "free 2 4": {"mesh_axes": _TWO_BY_FOUR, "microbatches": 1},
    "free 2 4 m2 recomputed": {"mesh_axes": _TWO_BY_FOUR, "microbatches": 2, "recompute": True},
    "2 stages data m4 1f1b": {"recipe": "data", "stages": 2, "microbatches": 4, "schedule": "1f1b"},
    "2 stages data m2 gpipe": {"recipe": "data", "stages": 2, "microbatches": 2, "schedule": "gpipe"},
    "2 stages fsdp m4 1f1b": {"recipe": "fsdp", "stages": 2, "microbatches": 4, "schedule": "1f1b"},
    "2 stages tensor m2 gpipe": {"recipe": "tensor", "stages": 2, "microbatches": 2, "schedule": "gpipe"},
    "2 stages data 2 model 2 m4": {"recipe": "megatron", "mesh_axes": (("data", 2), ("model", 2)), "stages": 2,
                                   "microbatches": 4, "schedule": "1f1b"},
    "2 stages data m4 recomputed": {"recipe": "data", "stages": 2, "microbatches": 4, "schedule": "1f1b",
                                    "recompute": True},
    "2 stages free m4": {"stages": 2, "microbatches": 4, "mesh_axes": (("x", 4),)},
    "4 stages data m4 gpipe": {"recipe": "data", "stages": 4, "microbatches": 4, "schedule": "gpipe"},
    "4 stages tensor m4 1f1b": {"recipe": "tensor", "stages": 4, "microbatches": 4, "schedule": "1f1b"},
}
"""Name -> pins."""

PINNED: Mapping[str, tuple[tuple[str, tuple[str | None, ...]], ...]] = {
    "gpt-tiny": (("embedding", ("x", None)),),
    "llama-tiny": (("unembedding", (None, "x")),),
    "moe-tiny": (("embedding", ("x", None)),),
    "wresnet-tiny": (("head", ("x", None)),),
    "vit-tiny": (("*/mlp/up", (None, "x")),),
}
"""Model -> parameters that the last plan of the table splits over all devices, the rest being free."""


@dataclass(frozen=True)
class Forced:
    """A plan with the pins that force it, and what it emits (`emitted`)."""

    name: str
    pins: Mapping[str, Any]
    plan: planner.Plan
    fingerprint: str


def model_of(name: str) -> models.ZooModel:
    """The model of `CASES` that the plans are of, with abstract parameters."""
    return models.build(name, dtype="float32", **CASES[name])


def table_of(name: str) -> Mapping[str, Mapping[str, Any]]:
    """All pins that a model is planned under."""
    pinned = {"mesh_axes": _ONE, "microbatches": 1, "params": PINNED[name]}
    return {**TABLE, "pinned parameter": pinned}


def forced_plans(name: str, model: models.ZooModel, cluster: Cluster) -> Iterator[Forced]:
    """The distinct plans of a model, planned one by one as they are asked for."""
    seen: set[str] = set()
    for label, pins in table_of(name).items():
        try:
            plan = planner.plan(model, cluster, **pins)
        except PlannerError:
            continue
        found = emitted(plan.record)
        if found not in seen:
            seen.add(found)
            yield Forced(label, pins, plan, found)


def emitted(record: PlanRecord) -> str:
    """A short hash of all that decides what programs a plan emits; predictions and names have no part in it."""
    stages = [(s.layers, s.ops, s.devices, s.mesh_shape, s.specs, s.uses, s.recompute) for s in record.stages]
    params = [(p.path, p.row, p.spec, p.update_spec, p.deferred, p.home) for p in record.params]
    schedule = record.schedule if len(record.stages) > 1 else ""
    text = json.dumps([record.fingerprint, record.microbatches, schedule, stages, params])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
