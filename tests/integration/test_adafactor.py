"""Adafactor keeps a row and a column of each matrix's second moment instead of the matrix: state that is shaped unlike
its parameter. Pipelined and sharded, it trains as on one device.
"""

from typing import Any

import jax
import optax
import pytest

import planner
from planner import models
from planner.core.graph import Role
from planner.trace import trace_program

STEPS = 5


def factored(**options: Any) -> optax.GradientTransformation:
    return optax.adafactor(0.01, min_dim_size_to_factor=16, **options)


def test_moments_are_factored():
    program = trace_program(models.build("mlp-tiny", batch_size=16, dtype="float32", layers=4, optimizer=factored()))
    update = program.update
    assert update is not None
    shapes = {update.values[i.value].shape for i in update.inputs_of(Role.OPT_STATE)}
    assert (64,) in shapes and (64, 64) not in shapes


@pytest.mark.parametrize(("name", "size", "options", "pins"), [
    pytest.param("mlp-tiny", {"layers": 4}, {}, {"stages": 2, "microbatches": 2}, id="pipeline"),
    pytest.param("mlp-tiny", {"layers": 4}, {"momentum": 0.9, "weight_decay_rate": 1e-3},
                 {"stages": 2, "microbatches": 2, "recipe": "fsdp"}, id="sharded pipeline"),
    pytest.param("gpt-tiny", {"layers": 2, "scan_layers": True}, {}, {"stages": 2, "microbatches": 2},
                 id="stacked layers in two stages", marks=pytest.mark.slow),
    pytest.param("gpt-tiny", {"layers": 2}, {}, {"recipe": "megatron", "stages": 2, "microbatches": 2,
                                                 "mesh_axes": (("data", 2), ("model", 2))},
                 id="mixed", marks=pytest.mark.slow),
])
def test_trains_as_on_one_device(name, size, options, pins):
    model = models.build(name, batch_size=16, dtype="float32", optimizer=factored(**options), **size)
    plan = planner.plan(model, planner.cluster("cpu-8"), **pins)
    assert len(plan.stages) == 2
    report = plan.check(model, jax.devices(), steps=STEPS)
    assert report.passed, f"{plan!r}\n{report}"
    assert len(report.losses) == STEPS
