"""Which values of a layer are kept: the cut against every set of values, and what it keeps of a transformer's layer."""

from itertools import combinations
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.graph import Graph, Op, Phase, Role, Value
from planner.core.pins import Pins
from planner.core.recomputation import run_again
from planner.costs.memory import value_bytes
from planner.intraop.selection import cheapest_again, seconds_again, selection
from planner.layer_classes import layer_ops
from planner.layers import cluster_layers
from planner.mesh_tables import priced_layers
from planner.prepared import prepare
from planner.program_index import crossing, index_program
from planner.spaces import MeshSpace
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, transformer


@st.composite
def forwards(draw):
    """A forward of up to six operators of one or two results, what each takes and each value's price, and the values
    that a backward reads."""
    ops, values = [], 1
    for _ in range(draw(st.integers(1, 6))):
        operands = draw(st.lists(st.integers(0, values - 1), min_size=1, max_size=3, unique=True))
        count = draw(st.integers(1, 2))
        ops.append(Op("add", tuple(operands), tuple(range(values, values + count)), MappingProxyType({})))
        values += count
    made = range(1, values)
    seconds = {n: draw(st.integers(0, 5)) for n in range(len(ops))}
    priced = {v: draw(st.integers(0, 5)) for v in made}
    wanted = draw(st.sets(st.sampled_from(made), min_size=1))
    graph = Graph((Value((2,), "float32"),) * values, tuple(ops), (), ())
    return graph, seconds, priced, wanted


def cost(graph, again, seconds, priced, wanted):
    """Of running operators again: their seconds, and the prices of what is needed and not made by them."""
    remade = {v for n in again for v in graph.ops[n].results}
    needed = wanted.union(*(graph.ops[n].inputs for n in again)) - {0}
    return sum(seconds[n] for n in again) + sum(priced[v] for v in needed - remade)


@given(forwards())
@settings(max_examples=80, deadline=None)
def test_no_other_set_is_cheaper(drawn):
    graph, seconds, priced, wanted = drawn
    found = cheapest_again(graph, seconds, priced, wanted)
    every = [set(some) for k in range(len(graph.ops) + 1) for some in combinations(range(len(graph.ops)), k)]
    assert cost(graph, found, seconds, priced, wanted) == min(cost(graph, s, seconds, priced, wanted) for s in every)


def test_a_transformer_keeps_products_and_makes_scores_and_elementwise_operators_again():
    index = index_program(program(transformer(sequence=256, width=128)))
    first, last = cluster_layers(index).ranges[2]
    found, graph = selection(index, first, last, DGX.device), index.program.micro
    assert found is not None
    assert {graph.ops[n].primitive for n in found.again} >= {"exp", "tanh"}
    makers = graph.producers
    kept = [graph.ops[makers[v]] for v in found.kept]
    assert sum(op.primitive == "dot_general" for op in kept) >= 4  # queries, keys, values, what attention gives
    assert all(graph.values[v].shape != (16, 8, 256, 256) for v in found.kept)  # scores and what is made of them


def test_what_runs_again_follows_from_what_is_kept():
    index = index_program(program(transformer()))
    graph, layers = index.program.micro, cluster_layers(index)
    for first, last in layers.ranges:
        found, ops = selection(index, first, last, DGX.device), layer_ops(index, first, last)
        if found is not None:
            assert frozenset(run_again(graph, ops, found.kept)) == found.again
            assert found.again < set(run_again(graph, ops))
            made = {v for n in ops if graph.ops[n].phase is Phase.FORWARD for v in graph.ops[n].results}
            assert found.kept <= made


def test_the_cut_is_no_dearer_than_all_or_nothing_at_the_price_where_these_are_equal():
    index = index_program(program(transformer()))
    graph = index.program.micro
    first, last = cluster_layers(index).ranges[2]
    found, ops = selection(index, first, last, DGX.device), layer_ops(index, first, last)
    assert found is not None
    handed_on, casts = set(crossing(index, last)), {v for v in found.kept if _is_cast(graph, v)}
    made = {v for n in ops if graph.ops[n].phase is Phase.FORWARD for v in graph.ops[n].results}
    read = {v for n in ops if graph.ops[n].phase is Phase.BACKWARD for v in graph.ops[n].inputs} & made - casts
    nothing = sum(value_bytes(graph.values[v]) for v in read - handed_on)
    some = sum(value_bytes(graph.values[v]) for v in found.kept - casts - handed_on)
    whole_s = sum(seconds_again(graph, n, DGX.device) for n in run_again(graph, ops))
    some_s = sum(seconds_again(graph, n, DGX.device) for n in found.again)
    assert some / nothing + some_s / whole_s <= 1.0


def _is_cast(graph, value):
    params = {i.value for i in graph.inputs_of(Role.PARAM)}
    op = graph.ops[graph.producers[value]]
    return set(op.inputs) <= params and bool(op.inputs)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
def test_every_sharding_holds_its_part_of_what_is_kept(shape):
    """Kept bytes summed over a layer lie between the whole and its part under full sharding, and are the whole on one
    device; what runs again takes less than the forward."""
    prepared = prepare(program(transformer(), 2), DGX.device)
    space = MeshSpace(mesh(*shape), ("x", "y")[:len(shape)], (AxisUse.ANY,) * len(shape))
    graph = prepared.program.micro
    for c, found in enumerate(priced_layers(prepared, space, DGX, Pins(), 7)):
        layer, chosen = found.priced, found.priced.model.selection
        if chosen is None:
            continue
        last = prepared.layers.ranges[prepared.layers.representative(c)][1]
        handed_on = set(crossing(prepared.index, last))
        casts = {v for p in layer.model.params for v in p.exported}
        whole = sum(value_bytes(graph.values[v]) for v in chosen.kept - handed_on - casts)
        least, most = (sum(pick(costs["kept_bytes"]) for costs in layer.unary if "kept_bytes" in costs)
                       for pick in (np.min, np.max))
        assert most == pytest.approx(whole)
        assert whole / 2 ** len(shape) <= least * (1 + 1e-9)
        again, forward = (sum(np.min(costs[k]) for costs in layer.unary if k in costs)
                          for k in ("again_s", "forward_s"))
        assert 0 < again <= forward * (1 + 1e-9)
