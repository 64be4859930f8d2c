"""ZeRO stages 1, 2 and 3 as recipes: what XLA's programs hold beside those of data parallelism, and the same training.

Rajbhandari et al., arXiv:1910.02054, section 5: optimizer state is divided by the data axis (1), sums of gradients too
(2), parameters too (3).
"""

from functools import cache
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax
import pytest

import planner
from planner import models
from planner.core.graph import Role
from planner.core.pins import Pins
from planner.mesh_tables import priced_layers
from planner.prepared import prepare
from planner.spaces import MeshSpace
from planner.trace import trace_program
from planner.verify import verify_plan
from tests.intraop.programs import mesh

SIZES: MappingProxyType[str, Any] = MappingProxyType({"batch_size": 64, "hidden": 256, "layers": 4})

RECIPES = ("data", "zero-1", "zero-2", "fsdp")


def built(dtype: str = "float32", **settings: Any):
    return models.build("mlp-tiny", dtype=dtype, **{**SIZES, **settings})


def parameter_bytes(model) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(model.params))


@cache
def compiled(recipe: str, stages: int):
    model = built()
    cuts = (2,) if stages == 2 else None
    record = planner.plan(model, planner.cluster("cpu-8"), recipe=recipe, stages=stages, boundaries=cuts,
                          microbatches=4).record
    stage = verify_plan(record, model, "local").stages[0]
    return record, stage, {p.name: p for p in stage.programs}


def test_arguments_of_the_compiled_step_are_divided_by_the_data_axis():
    """Of float32 parameters and Adam's two moments. All but an output layer's few numbers divide by 8."""
    whole = parameter_bytes(built())
    arguments = [compiled(recipe, 1)[2]["step"].argument_bytes for recipe in RECIPES]
    batch = arguments[0] - 3 * whole
    assert 0 < batch < 0.2 * whole
    for found, held in zip(arguments, (3, 1 + 2 / 8, 1 + 2 / 8, 3 / 8), strict=True):
        assert found - batch == pytest.approx(held * whole, rel=0.001)


def test_sums_of_gradients_are_divided_by_the_data_axis_under_zero_2_alone():
    """Between the programs of a pipeline, four devices a stage: the sums that every backward takes in and gives back.
    FSDP may hold them whole and combine them once."""
    data, one, two, _ = (compiled(recipe, 2)[2] for recipe in RECIPES)
    assert one["zeros"].output_bytes == data["zeros"].output_bytes
    assert two["zeros"].output_bytes == pytest.approx(data["zeros"].output_bytes / 4, rel=0.01)
    saved = one["backward"].argument_bytes - two["backward"].argument_bytes
    assert saved == pytest.approx(3 / 4 * data["zeros"].output_bytes, rel=0.01)


@pytest.mark.parametrize("stages", [1, 2])
def test_the_saving_is_that_of_the_plan(stages):
    """The peak of ZeRO and FSDP is foreseen within 10 %, and each holds less than data parallelism."""
    totals = []
    for recipe in RECIPES:
        record, stage, _ = compiled(recipe, stages)
        totals.append(stage.compiled_bytes)
        assert recipe == "data" or record.stages[0].memory.total_bytes == pytest.approx(stage.compiled_bytes, rel=0.1)
    assert all(some < totals[0] for some in totals[1:])
    assert totals[3] < min(totals[1:3])


def test_when_gradients_are_combined_is_what_tells_zero_1_from_zero_2():
    for recipe, deferred in (("zero-1", True), ("zero-2", False)):
        record, _, _ = compiled(recipe, 1)
        assert {p.deferred for p in record.params} == {deferred}
        assert all(not any(p.spec) for p in record.params)
        assert sum(any(p.update_spec) for p in record.params) >= len(record.params) - 2
        assert "optimizer state (ZeRO)" in record.stages[0].summary


@pytest.mark.parametrize(("recipe", "stages"), [("zero-1", 1), ("zero-2", 1), ("zero-2", 2), ("fsdp", 1)])
def test_trains_as_on_one_device(recipe, stages):
    model = models.build("mlp-tiny", batch_size=16, dtype="float32", layers=3)
    plan = planner.plan(model, planner.cluster("cpu-8"), recipe=recipe, stages=stages, microbatches=2)
    report = plan.check(model, jax.devices(), steps=4)
    assert report.passed, f"{plan!r}\n{report}"


OPTIMIZERS: MappingProxyType[str, tuple[Any, float]] = MappingProxyType({  # bytes of state for each parameter
    "adam": (optax.adam(1e-3), 8), "sgd": (optax.sgd(0.1), 0), "momentum": (optax.sgd(0.1, momentum=0.9), 4),
    "adam, first moment in bfloat16": (optax.adam(1e-3, mu_dtype="bfloat16"), 6),
    "adafactor": (optax.adafactor(0.01, min_dim_size_to_factor=16), 8 / 256),
})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bytes_of_a_parameter_follow_the_optimizer(name):
    """Float32 parameters computed in bfloat16: 4 bytes and the state, as the compiled step takes them in."""
    optimizer, state = OPTIMIZERS[name]
    model = built("bfloat16", optimizer=optimizer)
    count = parameter_bytes(model) // 4
    record = planner.plan(model, planner.cluster("cpu-8"), recipe="data", stages=1, microbatches=2).record
    (stage,) = record.stages
    assert (stage.memory.params_bytes + stage.memory.opt_state_bytes) / count == pytest.approx(4 + state, rel=0.01)
    (step,) = verify_plan(record, model, "local").stages[0].programs
    batch = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(model.batch))  # every device is given all of it
    held = stage.memory.params_bytes + stage.memory.opt_state_bytes
    assert step.argument_bytes - batch == pytest.approx(held, rel=0.01)


def test_the_search_counts_twenty_bytes_for_adam_in_mixed_precision():
    """4 for the parameter, 2 for its copy to compute with, 8 for the moments, 4 for the float32 sum of gradients: held
    all the time. The other 2 are the 16-bit gradient, which is there while its layer runs."""
    model, cluster = built("bfloat16", optimizer=optax.adam(1e-3)), planner.cluster("cpu-8")
    prepared = prepare(trace_program(model, 2), cluster.device)
    matrices = [i.value for i in prepared.program.micro.inputs_of(Role.PARAM)
                if len(prepared.program.micro.values[i.value].shape) == 2]
    held = count = 0.0
    for found in priced_layers(prepared, MeshSpace(mesh(), (), ()), cluster, Pins(), 7):
        layer = found.priced
        for item, param in enumerate(layer.model.params):
            if param.value in matrices:
                at = layer.param_variable(item)
                held += float(np.min(layer.unary[at]["resident_bytes"]))
                held += sum(float(np.min(c["resident_bytes"])) for key, c in layer.edges.items() if at in key)
                count += np.prod(prepared.program.micro.values[param.value].shape)
    assert held / count == pytest.approx(18, rel=0.001)
    products = [op for op in prepared.program.micro.ops if op.primitive == "dot_general"]
    assert {prepared.program.micro.values[v].dtype for op in products for v in op.results} == {"bfloat16"}
