"""Partial sums that are added before they are combined: predicted as compilers for GPUs do it, priced pairwise."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import planner
from planner import models
from planner.core.problem import Status
from planner.costs.resharding import reshard_cost
from planner.intraop.as_problem import as_problem
from planner.intraop.joint_sums import contributions
from planner.intraop.price import PricedLayer, price_layer
from planner.intraop.setting import Setting
from planner.intraop.structure import layer_model
from planner.layers import cluster_layers
from planner.program_index import index_program
from planner.solvers import solve
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, transformer

ACTIVATION = 16 * 32 * 64 * 4


def attention_layer(shape: tuple[int, ...], *, joint: bool) -> PricedLayer:
    index = index_program(program(transformer(), 1))
    first, last = cluster_layers(index).ranges[1]
    logical = replace(mesh(*shape), adds_before_all_reduce=joint)
    setting = Setting(logical, DGX.device, (AxisUse.ANY,) * len(shape), 1, True)
    return price_layer(index, layer_model(index, first, last), setting)


def tensor_parallel(joint: bool, layers: int = 2, name: str = "gpt-tiny") -> Counter[tuple[str, str]]:
    """(phase, operator) -> bytes of the all-reduces that each microbatch needs."""
    cluster = replace(planner.cluster("dgx-h100"), adds_before_all_reduce=joint)
    model = models.build(name, dtype="float32", batch_size=16, layers=layers)
    plan = planner.plan(model, cluster, recipe="tensor", stages=1, microbatches=1)
    found: Counter[tuple[str, str]] = Counter()
    for c in plan.stages[0].collectives:
        if c.kind == "all-reduce":
            found[c.phase, c.where.split("(")[-1].rstrip(")")] += c.bytes
    return found


@pytest.mark.parametrize(("name", "attention"), [("gpt-tiny", "attention"), ("llama-tiny", "grouped_attention")])
def test_a_transformer_layer_needs_four_all_reduces_as_megatron_says(name, attention):
    """Compiled for eight H100 (jax 0.10.2), gpt-tiny of 2 and 3 layers and llama-tiny of 2 hold 4 L + 1 all-reduces of
    one activation, no more: these figures."""
    found = tensor_parallel(joint=True, name=name)
    assert found["forward", attention] == found["backward", attention] == 2 * ACTIVATION
    assert sum(found.values()) == (4 * 2 + 1) * ACTIVATION


def test_a_compiler_that_combines_each_sum_needs_six():
    found = tensor_parallel(joint=False)
    assert found["backward", "attention"] == 2 * 3 * ACTIVATION
    assert sum(found.values()) == (6 * 2 + 1) * ACTIVATION


def test_only_what_all_groups_hand_over_alike_is_a_joint_sum():
    layer = attention_layer((2, 2), joint=True)
    joint = 0
    for item, origins in enumerate(layer.origins):
        for link in layer.model.links:
            if link.item != item or not any(origins):
                continue
            price = layer.prices[link.group]
            for value in contributions(price.graph, link, layer.model.tensors[item].owner):
                specs, pending, row = price.produced(value)
                table = layer.edges[link.group, layer.tensor_variable(item)]["backward_s"]
                for pick, origin in enumerate(origins):
                    if origin is not None:
                        joint += 1
                        made = np.array([(specs[r], pending[r]) == origin for r in row])
                        assert made.any() and np.isfinite(table[made, pick]).all()
                        assert np.isinf(table[~made, pick]).all()
    assert joint


def test_a_joint_sum_costs_one_combination():
    layer = attention_layer((4,), joint=True)
    seen = 0
    for item, origins in enumerate(layer.origins):
        costs = layer.unary[layer.tensor_variable(item)].get("backward_s")
        for pick, origin in enumerate(origins):
            if origin is not None:
                seen += 1
                size = np.prod(layer.prices[0].graph.values[layer.model.tensors[item].owner].shape) * 4
                once = reshard_cost(origin[0], layer.tensors[item][pick], layer.setting.mesh, origin[1]).at(size)
                assert costs is not None and costs[pick] == pytest.approx(once) and once > 0
    assert seen


def test_without_such_a_compiler_there_is_no_joint_sum():
    assert not any(o for origins in attention_layer((2,), joint=False).origins for o in origins)


@pytest.mark.parametrize("shape", [(8,), (2, 2)])
def test_joint_sums_only_make_it_cheaper(shape):
    answers = [solve(as_problem(attention_layer(shape, joint=joint), None), timeout_s=60, solver="auto")
               for joint in (True, False)]
    assert all(a.status is Status.OPTIMAL and a.cost is not None for a in answers)
    assert answers[0].cost <= answers[1].cost
