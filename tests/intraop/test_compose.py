"""Slices composed by min-plus products against every sequence of boundary states and every mixture of recomputation."""

from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest

from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.core.recomputation import Recompute
from planner.core.spec import shard_count
from planner.costs.memory import value_bytes
from planner.intraop.compose import SliceTable
from planner.intraop.frontier import PARTS
from planner.intraop.slice_choice import table_choice
from planner.intraop.variants import MIXTURES, PERIOD, Multipliers, slice_variants
from planner.mesh_tables import mesh_table
from planner.prepared import Prepared, prepare
from planner.spaces import MeshSpace
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, transformer

SLICES = ((0, 2), (1, 3), (2, 2))


@cache
def table(memory_bytes: int = 1 << 20) -> tuple[SliceTable, Prepared]:
    """On devices with so little memory that its price matters."""
    prepared = prepare(program(transformer(), 2), DGX.device)
    space = MeshSpace(mesh(2), ("x",), (AxisUse.ANY,))
    cluster: Cluster = replace(DGX, device=replace(DGX.device, memory_bytes=memory_bytes))
    return mesh_table(prepared, space, cluster, Pins()), prepared


def held(prepared, layer, state, shape):
    graph = prepared.program.micro
    return sum(value_bytes(graph.values[v]) / shard_count(spec, shape)
               for v, spec in zip(layer.before.owners, layer.before.states[state], strict=True))


def every_way(t, prepared, first, last, g, rows_at):
    """The least priced objective over all boundary states and the rows that `rows_at` allows at each position."""
    layers = t.layers[first:last + 1]
    sizes = [len(layers[0].before.states), *(len(f.after.states) for f in layers)]
    price = t.variants.per_byte_s[g] * t.variants.in_flight[g]
    best = np.inf
    for states in product(*map(range, sizes)):
        total = price * held(prepared, layers[0], states[0], t.mesh.shape)
        for n, layer in enumerate(layers):
            total += min(layer.priced[row, states[n], states[n + 1]] for row in rows_at(n))
        best = min(best, total)
    return best


def objective(t, prepared, first, last, g):
    """Of variant g on its path."""
    states = t.path(first, last, g)
    price = t.variants.per_byte_s[g] * t.variants.in_flight[g]
    rows = [t.row(first, layer, g, states[n], states[n + 1]) for n, layer in enumerate(range(first, last + 1))]
    return price * held(prepared, t.layers[first], states[0], t.mesh.shape) + sum(
        t.layers[first + n].priced[row, states[n], states[n + 1]] for n, row in enumerate(rows))


@pytest.mark.parametrize("ends", SLICES)
def test_every_variant_is_the_best_over_all_boundary_states(ends):
    t, prepared = table()
    ways = t.multipliers.ways
    assert len(ways) > 1
    for g in range(0, len(t.variants), 5):
        def rows_at(n, g=g):
            row = t.variants.rows[n % PERIOD, g]
            return ways[row - len(t.multipliers)] if row >= len(t.multipliers) else (row,)

        first, last = ends
        least = every_way(t, prepared, first, last, g, rows_at)
        assert objective(t, prepared, first, last, g) == pytest.approx(least, rel=1e-9)
        if g in t.variants.bounds:
            assert t.bound([g])[t.of(first, last), 0] == pytest.approx(least, rel=1e-9)
    some = t.variants.bounds
    for at, g in enumerate(some):
        assert t.bounds[t.of(first, last), at] == pytest.approx(objective(t, prepared, first, last, g), rel=1e-9)


@pytest.mark.parametrize("ends", SLICES)
def test_parts_add_up_along_the_path_and_rows(ends):
    t, prepared = table()
    first, last = ends
    useful = t.useful.of(t.of(first, last))
    for at, g in enumerate(useful.variant.tolist()):
        states = t.path(first, last, g)
        total = np.zeros(len(PARTS))
        total[4] = held(prepared, t.layers[first], states[0], t.mesh.shape)
        for n, layer in enumerate(range(first, last + 1)):
            row = t.row(first, layer, g, states[n], states[n + 1])
            total += t.layers[layer].parts[row, states[n], states[n + 1]]
        np.testing.assert_allclose(useful.parts[at], total, rtol=1e-9)


@pytest.mark.parametrize("ends", SLICES)
def test_variants_that_are_left_out_are_no_faster_and_hold_no_less_than_one_that_is_kept(ends):
    t, _ = table()
    useful = t.useful.of(t.of(*ends))
    kept = np.column_stack([useful.step_s(2), useful.parts[:, 3:], useful.working_bytes])
    assert 1 < len(kept) < len(t.variants) / 2 and (np.diff(kept[:, 0]) >= 0).all()
    for g in range(len(t.variants)):
        choice = table_choice(t, *ends, g)
        own = np.array([choice.microbatch_s + choice.batch_s / 2, *choice.parts[3:], choice.working_bytes])
        better = (kept <= own * (1 + 1e-12)).all(axis=1)
        assert better.any()
        if g in useful.variant:
            assert not better[:list(useful.variant).index(g)].any()  # nor of use beside faster ones
    for flight in (1, 2, 7):
        need = [table_choice(t, *ends, g).memory_bytes(flight) for g in range(len(t.variants))]
        assert useful.memory_bytes(flight).min() == pytest.approx(min(need), rel=1e-12)


def test_the_cheapest_mixture_bounds_every_share_at_its_price():
    t, prepared = table()
    v = t.variants
    mixed = {(v.per_byte_s[g], v.in_flight[g]): g for g in v.bounding(10**9)}
    assert len(mixed) == len(t.multipliers.ways) + 1
    for ends, g in product(SLICES, range(len(v))):
        free = mixed[v.per_byte_s[g], v.in_flight[g]]
        assert t.bound([free])[t.of(*ends), 0] <= objective(t, prepared, *ends, g) * (1 + 1e-12)


def test_more_recomputation_saves_memory_and_costs_time():
    t, _ = table()
    v, least = t.variants, min(p for p in t.variants.per_byte_s if p)
    rows = {v.pattern[g]: g for g in range(len(v)) if v.per_byte_s[g] == least and v.in_flight[g] == 1}
    for few, many in combinations(Recompute, 2):
        between = [rows[p] for p in rows if p is not None and set(p) <= {few, many}]
        between.sort(key=lambda g: v.pattern[g].count(many))
        assert [v.pattern[g].count(many) / PERIOD for g in between] == [
            0.0, *(share for a, b, share in MIXTURES if (a, b) == (few, many)), 1.0]
        whole = [table_choice(t, 0, len(t.layers) - 1, g) for g in between]
        times, memory = np.array([c.microbatch_s for c in whole]), np.array([c.parts[4] for c in whole])
        assert (np.diff(times) >= 0).all() and times[-1] > times[0]
        assert (np.diff(memory) <= 0).all() and memory[-1] < memory[0]


def test_shares_are_spread_evenly_and_pinned_recomputation_is_not_mixed():
    every = slice_variants(Multipliers((0.1,) * 3, (1,) * 3, tuple(Recompute)))
    assert every.pattern[:3] == tuple((way,) * PERIOD for way in Recompute) and every.pattern[-1] is None
    for (few, many, share), pattern in zip(MIXTURES, every.pattern[3:-1], strict=True):
        assert pattern is not None
        assert (pattern.count(few), pattern.count(many)) == ((1 - share) * PERIOD, share * PERIOD)
    assert every.bounding(1) == [len(every) - 1]
    only = slice_variants(Multipliers((0.0, 1.0), (1, 1), (Recompute.ALL,) * 2))
    assert only.pattern == ((Recompute.ALL,) * PERIOD,) * 2 and only.bounding(1) == [0, 1]


def test_where_memory_is_free_recomputing_nothing_bounds_every_way():
    some = Multipliers((0.0, 0.1, 0.1, 0.1), (1,) * 4, (Recompute.NONE, *Recompute))
    assert slice_variants(some).bounding(1) == [0, len(slice_variants(some)) - 1]
    t, _ = table()
    free = next(g for g in range(len(t.variants)) if t.variants.per_byte_s[g] == 0)
    whole = [table_choice(t, 0, len(t.layers) - 1, g) for g in range(len(t.variants))]
    step = np.array([2 * c.microbatch_s + c.batch_s for c in whole])
    assert step[free] <= step.min() * (1 + 1e-12)


def test_where_every_slice_fits_no_price_is_tried_and_none_would_be_faster():
    tight, _ = table()
    roomy, _ = table(80 * 10**9)
    assert len(roomy.multipliers) == 1 < len(tight.multipliers)
    step, other = roomy.useful.step_s(2), tight.useful.step_s(2)
    assert (np.diff(roomy.useful.start) == 1).all()
    np.testing.assert_allclose(step, np.minimum.reduceat(other, tight.useful.start[:-1]), rtol=1e-9)
