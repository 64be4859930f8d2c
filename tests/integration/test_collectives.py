"""What compiled programs communicate: the counts that Alpa's tests expect, restated for our emitted programs, and the
bytes that the plan predicted.

XLA combines all-reduces of independent arrays into one, so where a count would depend on its combiner, arrays are
counted instead. Its CPU backend turns a reduce-scatter into an all-reduce and a slice, doesn't combine all-gathers, and
combines partial sums before it adds them. Compiled for eight H100 by the same jax (0.10.2), the plans of these tests
have Alpa's counts to the letter: ZeRO-2 one reduce-scatter and one all-gather, a MoE layer four all-to-alls, a
transformer layer under tensor parallelism four all-reduces.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import jax
import pytest

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.core.spec import shard_count
from tests.integration.hlo import Found, collectives

SIZES: dict[str, dict[str, Any]] = {"mlp-tiny": {"batch_size": 64, "layers": 6},
                                    "gpt-tiny": {"batch_size": 32, "layers": 1},
                                    "moe-tiny": {"batch_size": 64, "layers": 2}}
FLOAT_BYTES = 4
LOSS = 4
"""The loss of the whole batch is a sum over devices too: one float32."""


@cache
def compiled(name: str, recipe: str, *, microbatches: int = 1, **changed: Any
             ) -> tuple[planner.Plan, list[Found], int]:
    """The plan on eight devices, what its program communicates, and the bytes of the parameters."""
    model = models.build(name, dtype="float32", **SIZES[name] | changed)
    return program_of(model, planner.cluster("cpu-8"), recipe=recipe, microbatches=microbatches)


@cache
def like_megatron(layers: int) -> tuple[planner.Plan, list[Found], int]:
    """gpt-tiny under tensor parallelism as links as fast as NVLink make it best, priced for the compiler that runs it
    here (under the costs of the CPU mesh, sequences are sharded instead)."""
    fast = replace(planner.cluster("dgx-h100"), adds_before_all_reduce=False, reduce_scatter_as_all_reduce=True)
    model = models.build("gpt-tiny", dtype="float32", batch_size=16, layers=layers)
    return program_of(model, fast, recipe="tensor", microbatches=1)


def program_of(model: planner.Model, cluster: Cluster, **pins: Any) -> tuple[planner.Plan, list[Found], int]:
    """The same for any model and pins."""
    plan = planner.plan(model, cluster, stages=1, **pins)
    step, state = plan.compile(model, jax.devices(), params=models.init(model))
    text = step.lower(state, model.batch).compile().as_text()
    return plan, collectives(text), FLOAT_BYTES * model.parameter_count


def predicted(plan: planner.Plan) -> Counter[tuple[str, str]]:
    """(kind, per microbatch or batch) -> bytes."""
    total: Counter[tuple[str, str]] = Counter()
    for stage in plan.stages:
        for c in stage.collectives:
            assert prod(stage.mesh_shape[a] for a in c.axes) == 8
            total[c.kind, c.per] += c.bytes
    return total


def found(program: list[Found], *, in_loop: bool = False) -> Counter[str]:
    """Kind -> bytes."""
    total: Counter[str] = Counter()
    for c in program:
        if c.in_loop == in_loop:
            total[c.kind] += c.bytes
    return total


def test_data_parallel_mlp_has_one_all_reduce_of_all_gradients():
    plan, program, size = compiled("mlp-tiny", "data")
    assert [(c.kind, c.bytes, c.arrays) for c in program] == [("all-reduce", size + LOSS, 2 * 6 + 1)]
    assert predicted(plan) == {("all-reduce", "microbatch"): size + LOSS}


@pytest.mark.parametrize("name", ["mlp-tiny", "gpt-tiny"])
def test_deferred_gradients_are_combined_once_per_batch(name):
    """No microbatch combines gradients: in the loop there is the loss alone, after it one all-reduce of everything."""
    _, program, size = compiled(name, "data", microbatches=4)
    assert found(program, in_loop=True) == {"all-reduce": LOSS}
    assert [(c.kind, c.bytes) for c in program if not c.in_loop] == [("all-reduce", size)]


def test_deferred_gradients_cost_what_the_plan_predicts():
    plan, program, _ = compiled("mlp-tiny", "data", microbatches=4)
    assert predicted(plan)["all-reduce", "batch"] == found(program)["all-reduce"]


def test_tensor_parallel_mlp_sums_one_product_of_two():
    """Six products alternate between split outputs and split inputs: three sums forward; backward, the first product
    needs no gradient of its input, which leaves two."""
    plan, program, _ = compiled("mlp-tiny", "tensor")
    assert Counter((c.kind, c.bytes) for c in program) == {("all-reduce", 64 * 64 * FLOAT_BYTES): 5}
    assert predicted(plan) == {("all-reduce", "microbatch"): sum(c.bytes for c in program)}


def test_tensor_parallel_transformer_sums_as_megatron_does():
    """Forward, attention and feed-forward each sum one [b, s, d] a layer. Backward, each sums the gradient of what it
    reads. That of attention is a sum of three, for query, key and value: XLA on CPU combines the three arrays (in one
    call) and then adds, on GPU it adds and then combines once (`tests/intraop/test_joint_sums.py`). Bytes beyond: the
    gradient of the embedding's rows."""
    program = {layers: like_megatron(layers)[1] for layers in (2, 3)}
    activation = 16 * 32 * 64 * FLOAT_BYTES
    more = found(program[3])["all-reduce"] - found(program[2])["all-reduce"]
    assert more == (2 + 1 + 3) * activation
    assert found(program[3])["all-gather"] == found(program[2])["all-gather"]


def test_tensor_parallel_transformer_sums_what_the_plan_predicts():
    plan, program, _ = like_megatron(2)
    assert predicted(plan)["all-reduce", "microbatch"] == found(program)["all-reduce"]


@pytest.mark.parametrize("name", ["mlp-tiny", "gpt-tiny"])
def test_fsdp_gathers_every_parameter_twice_and_combines_every_gradient(name):
    plan, program, size = compiled(name, "fsdp")
    seen, expected = found(program), predicted(plan)
    assert set(seen) == {"all-gather", "all-reduce"}
    assert seen["all-gather"] == expected["all-gather", "microbatch"] > size
    combined = expected["all-reduce", "microbatch"] + expected["all-reduce", "batch"]  # a tied weight's is one sum
    assert seen["all-reduce"] == combined == size + LOSS


def test_zero_2_combines_gradients_into_shards_and_gathers_every_weight_once():
    """Whole parameters in little memory: the optimizer's state has to be sharded, and with it the gradients. What would
    be one reduce-scatter is, on CPU, the one all-reduce of data parallelism; each device keeps its part of the sum. The
    biases, which are hardly worth it, stay whole."""
    model = models.build("mlp-tiny", dtype="float32", layers=6, batch_size=4096)
    roomy = planner.cluster("cpu-8")
    tight = replace(roomy, device=replace(roomy.device, memory_bytes=3_140_000))
    plan, program, size = program_of(model, tight, microbatches=1, mesh_axes=(("data", 8),), params=(("*", ()),))
    weights = [p for p in plan.record.params if p.path.endswith("weight")]
    assert len(weights) == 6
    assert all(p.spec == ((), ()) and shard_count(p.update_spec, (8,)) == 8 for p in weights)
    assert [(c.kind, c.bytes) for c in program if c.kind != "all-gather"] == [("all-reduce", size + LOSS)]
    gathered = [c for c in program if c.kind == "all-gather"]
    assert sum(c.arrays for c in gathered) == len(weights)
    assert sum(c.bytes for c in gathered) == sum(FLOAT_BYTES * prod(p.shape) for p in weights)
    assert predicted(plan)["all-gather", "batch"] == sum(c.bytes for c in gathered)


@pytest.mark.parametrize("layers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_expert_layer_needs_four_all_to_alls(layers):
    """Experts on different devices, everything else data parallel: tokens go to their experts and come back, and so do
    the gradients. Every other layer has experts. All else is one all-reduce of the other gradients."""
    experts = ("data", None, None)
    model = models.build("moe-tiny", dtype="float32", batch_size=64, layers=layers)
    plan, program, _ = program_of(
        model, planner.cluster("cpu-8"), microbatches=1, mesh_axes=(("data", 8),),
        params=(("*/experts/up", experts), ("*/experts/down", experts)))
    kinds = Counter(c.kind for c in program)
    assert kinds == {"all-to-all": 4 * layers // 2, "all-reduce": 1}
    assert {c.group for c in program} == {8}
    assert predicted(plan)["all-to-all", "microbatch"] == found(program)["all-to-all"]
    reduced = sum(size for (kind, _), size in predicted(plan).items() if kind == "all-reduce")
    assert reduced == found(program)["all-reduce"]
