"""Refinement against enumeration of all mixtures, against the whole stage as one problem, and its own prices."""

from itertools import product

import numpy as np
import pytest

from planner.core.problem import INFINITE_COST, Status, evaluate
from planner.intraop.chain import best_walk, chain, mixed_walk, priced_walk, tightest, walks_through
from planner.intraop.points import points
from planner.intraop.refine import Columns, approach, finish, open_problem
from planner.intraop.slice_choice import table_choice
from planner.intraop.stage_as_problem import StageLayer, stage_as_problem
from planner.intraop.stage_problem import PS, stage_problem
from planner.intraop.working_limits import search_ranges, within
from planner.solvers import solve
from tests.intraop.stages import MICROBATCHES, fastest_variant, stage, tight_table

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def columns(of):
    layers = of.table.layers[of.first:of.last + 1]
    return Columns(of, {id(f): [(f, of.table.multipliers)] for f in layers})


def rows_and_states(choice):
    return [s.row for s in choice.steps], [choice.steps[0].before, *(s.after for s in choice.steps)]


def all_points(layers):
    return [np.isfinite(p.step_s) for p in layers]


def fewer(layers, seed, kept):
    """A few points of each layer, so that all walks can be counted out."""
    random = np.random.default_rng(seed)
    found = []
    for p in layers:
        keep = np.isfinite(p.step_s)
        at = np.argwhere(keep)
        keep[:] = False
        keep[tuple(at[random.choice(len(at), min(kept, len(at)), replace=False)].T)] = True
        found.append(keep)
    return found


def enumerated(layers, keep, limit):
    """The fastest fitting walk through the points kept, by trying every one."""
    best = np.inf
    for picks in product(*(np.argwhere(k).tolist() for k in keep)):
        if all(a[2] == b[1] for a, b in zip(picks[:-1], picks[1:], strict=True)):
            walk = priced_walk(chain(layers), [g for g, _, _ in picks], [picks[0][1], *(o for _, _, o in picks)])
            if walk.peak_bytes <= limit:
                best = min(best, walk.step_s)
    return best


def only(layers, keep):
    from dataclasses import replace

    return [replace(p, step_s=np.where(k, p.step_s, np.inf)) for p, k in zip(layers, keep, strict=True)]


@pytest.mark.parametrize("ends", [(0, 2), (1, 3), (2, 2)])
def test_a_variant_is_a_walk_of_the_same_time_and_peak(ends):
    of = stage(0.5, *ends, layers=4)
    layers, t = columns(of).points(), of.table
    useful = t.useful.of(t.of(*ends))
    for at, g in enumerate(useful.variant.tolist()):
        choice = table_choice(t, *ends, g)
        walk = priced_walk(chain(layers), *rows_and_states(choice))
        assert walk.peak_bytes == pytest.approx(useful.memory_bytes(of.in_flight)[at], rel=1e-12)
        assert choice.memory_bytes(of.in_flight) == pytest.approx(walk.peak_bytes, rel=1e-12)
        assert walk.step_s == pytest.approx(MICROBATCHES * useful.step_s(MICROBATCHES)[at], rel=1e-12)
        assert choice.parts == pytest.approx(tuple(useful.parts[at]), rel=1e-12)
    assert len(useful.variant)


def test_a_variant_costs_and_holds_the_same_in_the_stage_problem():
    of = stage(0.5)
    layers = columns(of).points()
    priced = 0
    for limit in (of.limit_bytes, 2 * of.limit_bytes):
        made = stage_problem(layers, all_points(layers), limit)
        variants = [rows_and_states(table_choice(of.table, of.first, of.last, g))
                    for g in range(len(of.table.variants))]
        walks = [best_walk(chain(layers), price)[1] for price in sorted(set(of.table.multipliers.per_byte_s))]
        for rows, states in (*variants, *((w.rows, w.states) for w in walks)):
            picks = made.choice(rows, states)
            if -1 in picks:  # another point between the same states is as good in all respects
                continue
            walk, verdict = priced_walk(chain(layers), rows, states), evaluate(made.problem, picks)
            assert verdict.cost == pytest.approx(walk.step_s * PS, abs=len(layers))
            assert (verdict.violated_at is None) == (walk.peak_bytes <= limit)
            assert verdict.peak_usage == pytest.approx(walk.peak_bytes, abs=len(layers) + 1)
            priced += 1
            assert made.walk(picks) == (tuple(rows), tuple(states))
    assert priced >= 8


def least_working(layers):
    return max(float(p.working_bytes[np.isfinite(p.step_s)].min()) for p in layers)


@pytest.mark.parametrize("seed", range(6))
def test_the_stage_problem_has_the_fastest_walk_that_fits(seed):
    of = stage(SHARES[seed % 5])
    layers = columns(of).points()
    keep = fewer(layers, seed, 14)
    found = solve(stage_problem(layers, keep, of.limit_bytes).problem, timeout_s=20)
    best = enumerated(layers, keep, of.limit_bytes)
    if np.isinf(best):
        assert found.status is Status.INFEASIBLE
    else:
        assert found.status is Status.OPTIMAL
        assert found.cost == pytest.approx(best * PS, abs=len(layers))


@pytest.mark.parametrize("seed", range(8))
def test_bounds_are_below_and_ranges_reach_the_fastest_walk(seed):
    of = stage(SHARES[seed % 5])
    layers = columns(of).points()
    keep = fewer(layers, seed, 20)
    best = enumerated(layers, keep, of.limit_bytes)
    some = only(layers, keep)
    if any(not k.any() for k in keep) or np.isinf(best):
        return
    dual = tightest(chain(some), of.limit_bytes, 1e-12, least_working(some))
    assert dual.bound_s <= best * (1 + 1e-9)
    assert dual.walk is None or dual.walk.step_s >= best * (1 - 1e-9)
    ranges = search_ranges(some, of.limit_bytes, None, 1e-12, tolerance=0.0)
    assert ranges.bound_s() <= best * (1 + 1e-9)
    if ranges.walk is not None:
        assert best * (1 - 1e-9) <= ranges.walk.step_s and ranges.walk.peak_bytes <= of.limit_bytes


def test_the_cheapest_walk_through_a_point_is_the_best_that_uses_it():
    of = stage(0.5)
    layers = columns(of).points()
    price = of.table.multipliers.per_byte_s[-1] / 50
    cost, walk = best_walk(chain(layers), price)
    through = walks_through(layers, price)
    assert walk.step_s + price * walk.held_bytes == pytest.approx(cost, rel=1e-12)
    for n, (g, i, o) in enumerate(zip(walk.rows, walk.states[:-1], walk.states[1:], strict=True)):
        assert through[n][g, i, o] == pytest.approx(cost, rel=1e-12) == through[n].min()
    for n in range(len(layers)):
        at = tuple(np.argwhere(np.isfinite(layers[n].step_s))[7])
        keep = all_points(layers)
        keep[n] = np.zeros_like(keep[n])
        keep[n][at] = True
        assert best_walk(chain(only(layers, keep)), price)[0] == pytest.approx(through[n][at], rel=1e-12)


def test_mixed_walks_fit_and_are_no_slower_than_walks_of_one_price_that_fit():
    of = stage(0.5)
    layers = columns(of).points()
    prices = (0.0, max(of.table.multipliers.per_byte_s))
    mixed = mixed_walk(chain(layers), prices, of.limit_bytes)
    dear = best_walk(chain(layers), prices[1])[1]
    assert mixed is not None and mixed.peak_bytes <= of.limit_bytes and dear.peak_bytes <= of.limit_bytes
    assert mixed.step_s < dear.step_s


def test_within_leaves_equal_layers_one_object_and_drops_points_that_work_in_more():
    layers = columns(stage(0.5, 1, 2)).points()
    limit = float(np.median(layers[1].working_bytes))
    some = within([layers[1], layers[1]], limit)
    assert some[0] is some[1]
    assert (np.isfinite(some[0].step_s) == (np.isfinite(layers[1].step_s) & (layers[1].working_bytes <= limit))).all()


@pytest.mark.parametrize("share", SHARES)
def test_refinement_fits_is_no_slower_and_respects_its_bound(share):
    of = stage(share)
    start = fastest_variant(of)
    start_s = MICROBATCHES * start.microbatch_s + start.batch_s
    known = approach(of, start)
    better, _ = finish(known)
    assert better.choice is not None
    assert better.choice.memory_bytes(of.in_flight) <= of.limit_bytes
    assert 0 < better.bound_s <= better.step_s <= known.step_s <= start_s * (1 + 1e-12)
    assert MICROBATCHES * better.choice.microbatch_s + better.choice.batch_s == pytest.approx(better.step_s, rel=1e-12)
    for one, next_one in zip(better.choice.steps[:-1], better.choice.steps[1:], strict=True):
        assert one.after == next_one.before and one.layer + 1 == next_one.layer


def test_refinement_closes_part_of_the_gap_where_memory_binds():
    gains = []
    for share in SHARES:
        of = stage(share)
        start = fastest_variant(of)
        gains.append(1 - approach(of, start).step_s / (MICROBATCHES * start.microbatch_s + start.batch_s))
    assert max(gains) > 0.002


def test_refining_twice_gives_the_same():
    of = stage(0.4)
    first, second = (finish(approach(of, fastest_variant(of)))[0] for _ in range(2))
    assert first.choice is not None and second.choice is not None
    assert (first.step_s, first.bound_s) == (second.step_s, second.bound_s)
    assert rows_and_states(first.choice) == rows_and_states(second.choice)


def whole(of, choice, limit):
    layers = [StageLayer(s.frontier.layer, s.frontier.before, s.frontier.after, s.way) for s in choice.steps]
    return stage_as_problem(of.graph, layers, of.in_flight, limit)


@pytest.mark.parametrize("share", SHARES)
def test_a_refined_stage_costs_and_holds_the_same_as_one_whole_problem(share):
    of = stage(share)
    choice = approach(of, fastest_variant(of)).choice
    assert choice is not None
    made = whole(of, choice, None)
    picks = made.choice(rows_and_states(choice)[1], [s.frontier.choice(s.row, s.before, s.after) for s in choice.steps])
    verdict = evaluate(made.problem, picks)
    assert verdict.cost < INFINITE_COST
    step_s = MICROBATCHES * choice.microbatch_s + choice.batch_s
    assert verdict.cost == pytest.approx(step_s * 1e9, abs=len(made.problem.nodes) + len(made.problem.edges))
    assert verdict.peak_usage == pytest.approx(choice.memory_bytes(of.in_flight), abs=len(made.problem.nodes))


def test_the_optimum_of_the_whole_stage_is_between_the_bound_and_the_refined_time():
    """The optimum with the same layers recomputed; the bound is for any."""
    of = stage(0.6, 1, 1)
    known = approach(of, fastest_variant(of))
    assert known.choice is not None
    made = whole(of, known.choice, int(of.limit_bytes))
    found = solve(made.problem, timeout_s=30, hint=made.choice(
        rows_and_states(known.choice)[1],
        [s.frontier.choice(s.row, s.before, s.after) for s in known.choice.steps]))
    assert found.status is Status.OPTIMAL and found.cost is not None
    rounding = len(made.problem.nodes) + len(made.problem.edges)
    assert known.bound_s * 1e9 <= found.cost + rounding
    assert found.cost <= known.step_s * 1e9 + rounding


def test_what_enters_a_stage_is_held_by_its_first_layer_only():
    table, _ = tight_table()
    f, entering = table.layers[1], table.entering_bytes[1]
    plain = points([(f, table.multipliers)], 3, MICROBATCHES)
    first = points([(f, table.multipliers)], 3, MICROBATCHES, entering_bytes=entering)
    np.testing.assert_allclose(first.held_bytes - plain.held_bytes,
                               np.broadcast_to(3 * entering[None, :, None], plain.held_bytes.shape))
    assert open_problem(approach(stage(1.0), fastest_variant(stage(1.0)))) is None
