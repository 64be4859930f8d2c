"""Every model of the zoo, planned in every kind of way, trains as it does on one device.

The losses, gradients, parameters, optimizer state and state of five steps agree within the tolerances of
`planner.check`. A few pairs cover every model and every kind of plan; all the others are marked `slow`.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import jax
import optax
import pytest

import planner
from planner import models

STEPS = 5

# Wide-ResNet: the bias before a batch norm has no gradient but rounding noise, which AdamW would turn into whole steps.
MODELS: MappingProxyType[str, dict[str, Any]] = MappingProxyType({  # the least depth that two stages can share
    "gpt-tiny": {"layers": 2}, "llama-tiny": {"layers": 2}, "mixtral-tiny": {"layers": 2}, "moe-tiny": {"layers": 2},
    "wresnet-tiny": {"optimizer": optax.sgd(0.01, momentum=0.9)}, "vit-tiny": {"layers": 2},
    "t5-tiny": {"layers": 1}, "lstm-tiny": {}, "unet-tiny": {}, "mlp-tiny": {},
})

PLANS: MappingProxyType[str, dict[str, Any]] = MappingProxyType({
    "chosen": {},
    "data": {"recipe": "data", "stages": 1},
    "fsdp": {"recipe": "fsdp", "stages": 1},
    "tensor": {"recipe": "tensor", "stages": 1},
    "pipeline": {"stages": 2, "microbatches": 4, "schedule": "1f1b"},
    "mixed": {"recipe": "megatron", "stages": 2, "mesh_axes": (("data", 2), ("model", 2)), "microbatches": 2},
})

QUICK = frozenset({("mlp-tiny", "mixed"), ("mlp-tiny", "chosen"), ("gpt-tiny", "pipeline"), ("moe-tiny", "tensor"),
                   ("llama-tiny", "fsdp"), ("lstm-tiny", "data")})
"""What the default run does; the others take long to compile."""


def pairs() -> Iterator[object]:
    for name in MODELS:
        for kind in PLANS:
            marks = () if (name, kind) in QUICK else (pytest.mark.slow,)
            yield pytest.param(name, kind, marks=marks, id=f"{name}-{kind}")


@pytest.mark.parametrize(("name", "kind"), list(pairs()))
def test_trains_as_on_one_device(name, kind):
    model = models.build(name, batch_size=16, dtype="float32", **MODELS[name])
    plan = planner.plan(model, planner.cluster("cpu-8"), **PLANS[kind])
    report = plan.check(model, jax.devices(), steps=STEPS)
    assert report.passed, f"{plan!r}\n{report}"
    assert len(report.losses) == STEPS
    if "stages" in PLANS[kind]:
        assert len(plan.stages) == PLANS[kind]["stages"]


def test_the_quick_pairs_cover_every_kind_of_plan():
    assert {kind for _, kind in QUICK} == set(PLANS)
