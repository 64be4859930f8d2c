"""Layers: repeats are found, equal layers share a class, and the balancing dynamic program is optimal."""

from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner import models
from planner.core.graph import Graph, Phase, Role
from planner.costs.memory import value_bytes
from planner.layer_classes import described
from planner.layers import IMBALANCE, balance, mended_ends
from planner.model import Model
from planner.prepared import prepare
from planner.program_index import crossing, index_program, torn_bytes
from planner.rules import flops_of
from planner.trace import trace_program
from tests.intraop.programs import mlp, program, struct, transformer


@pytest.mark.parametrize("count", [2, 3, 6])
def test_every_block_of_a_transformer_is_a_layer_of_one_class(count):
    found = prepare(program(transformer(layers=count))).layers
    repeats = max(found.classes.count(c) for c in set(found.classes))
    assert repeats >= count - 1  # the last may differ where the head follows
    assert len(set(found.classes)) <= 4
    assert found.cuts[0] == 0
    assert list(found.cuts) == sorted(set(found.cuts))


def test_loops_with_other_bodies_are_other_layers():
    numbers = {}

    def words(step):
        def loss(params, batch):
            return jnp.mean(jax.lax.scan(lambda x, _: (step(x @ params["w"]), None), batch["x"], length=4)[0])

        index = index_program(trace_program(Model(loss, {"w": struct(8, 8)}, {"x": struct(4, 8)}, optax.sgd(0.1)), 1))
        return [layer.words for layer in described(index, [(0, len(index.program.forward.ops))], numbers)]

    assert words(jnp.tanh) == words(jnp.tanh) != words(jnp.sin)


def test_layers_cut_where_one_activation_crosses():
    prepared = prepare(program(transformer(layers=4, batch=16, sequence=32, width=64)))
    inner = prepared.crossing_bytes[2:-2]
    assert set(inner) == {16 * 32 * 64 * 4.0}


@pytest.mark.parametrize(("name", "size"), [("moe-tiny", {"layers": 2}), ("mlp-tiny", {}), ("unet-tiny", {})])
def test_what_crosses_backward_belongs_to_what_crosses_forward(name, size):
    """A cotangent whose owner does not cross would be moved between layers at no price. The last layer of the MLP hands
    its result to a subtraction, which has the same cotangent; in the U-Net, phases inside and after an addition have as
    many bytes."""
    prepared = prepare(trace_program(models.build(name, batch_size=2, dtype="float32", **size), 1))
    index, micro = prepared.index, prepared.program.micro
    made = {v: op.origin for op in micro.ops for v in op.results if index.owner.get(v, v) != v}
    for cut in prepared.layers.cuts[1:-1]:
        owners = crossing(index, cut)
        for n, op in enumerate(micro.ops):
            if op.origin < cut and n not in index.sums:
                assert all(index.owner[v] in owners for v in op.inputs
                           if made.get(v, -1) >= cut and index.owner[v] not in index.role), (cut, n)


def test_what_a_cut_tears_is_counted_once_per_cotangent():
    """`x - y` has the cotangent of `x`: a cut between the last product and the difference tears one activation."""
    prepared = prepare(program(mlp(layers=3, width=256, batch=64)))
    torn, forward = torn_bytes(prepared.index), prepared.program.forward
    at = next(n for n, op in enumerate(forward.ops) if op.primitive == "sub")
    assert torn[at] == 64 * 256 * 4
    assert torn[at + 1] == 0
    assert not any(torn[cut] for cut in prepared.layers.cuts)


@pytest.mark.parametrize(("name", "size"), [("gpt-tiny", {"layers": 1}), ("gpt-tiny", {"layers": 2}),
                                            ("t5-tiny", {"layers": 1}), ("vit-tiny", {"layers": 1})])
def test_a_parameter_and_its_cast_are_of_one_layer(name, size):
    """A 16-bit copy of a weight is no activation: no cut parts it from what reads it, be it in a repeat or not."""
    prepared = prepare(trace_program(models.build(name, batch_size=2, **size), 1))
    forward = prepared.program.forward
    weights = {i.value for i in forward.inputs_of(Role.PARAM)}
    casts = {op.results[0] for op in forward.ops
             if op.primitive == "convert_element_type" and op.inputs and op.inputs[0] in weights}
    assert casts
    assert not any(casts & set(crossing(prepared.index, cut)) for cut in prepared.layers.cuts)


def test_the_last_mark_of_a_repeat_moves_off_a_torn_position():
    marks = [4, 8, 12, 16]
    torn = np.zeros(21)
    assert mended_ends(marks, 0, 20, torn) == marks
    torn[16] = torn[15] = 8
    assert mended_ends(marks, 0, 20, torn) == [4, 8, 12, 17]
    torn[[8, 12]] = 8  # as torn as every other mark
    assert mended_ends(marks, 0, 20, torn) == marks
    torn[[8, 12]], torn[13:20], torn[4] = 0, 8, 8
    assert mended_ends(marks, 0, 20, torn) == [3, 8, 12, 20]


def received_bytes(graph: Graph, first: int, last: int) -> int:
    made = {v for op in graph.ops[:first] for v in op.results}
    return sum(value_bytes(graph.values[v]) for v in {v for op in graph.ops[first:last] for v in op.inputs} & made)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_balance_minimises_the_largest_bytes_received(parts):
    graph = program(mlp(layers=4)).forward
    n = len(graph.ops)
    flops = np.array([float(flops_of(graph, op)) + 1.0 for op in graph.ops])
    limit = max((1 + IMBALANCE) * flops.sum() / parts, flops.max())

    def largest(cuts):
        bounds = [0, *cuts, n]
        pieces = list(zip(bounds, bounds[1:], strict=False))
        if any(flops[a:b].sum() > limit + 1e-6 for a, b in pieces):
            return np.inf
        return max(received_bytes(graph, a, b) for a, b in pieces)

    best = min(largest(cuts) for cuts in combinations(range(1, n), parts - 1))
    assert largest(balance(graph, flops, 0, n, parts)[1:-1]) == best


def test_a_model_without_repeats_is_cut_by_flops():
    widths = (64, 128, 256, 128, 64)

    def loss(params, batch):
        x = batch
        for w in params:
            x = jax.nn.relu(x @ w)
        return jnp.mean(x)

    params = [struct(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    found = prepare(program(Model(loss, params, struct(32, 64), optax.sgd(0.1)))).layers
    assert len(found) >= 2


def test_results_of_stages_are_what_the_backward_needs_and_sums_of_gradients():
    """Of three products with a relu each: the sums of three gradients, what the backward reads, and the loss."""
    prepared = prepare(program(mlp(layers=3, width=256, batch=64)))
    index = prepared.index
    read = {v for op in index.program.micro.ops if op.phase is Phase.BACKWARD for v in op.inputs}
    made = {v for op in index.program.micro.ops if op.phase is Phase.FORWARD for v in op.results}
    assert sum(prepared.results) == 3 + len(read & made) + 1 == 10
    assert set(prepare(trace_program(replace(mlp(), optimizer=None), 1)).results) == {0}
