"""Variable elimination on tables against brute force, batched and not, and its refusals."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from planner.errors import InfeasibleError, ProblemError
from planner.solvers.eliminate_tables import eliminate
from planner.solvers.elimination_code import WidthExceeded
from planner.solvers.elimination_order import elimination_order

Floats = NDArray[np.float64]


def random_tables(seed: int, batch: int | None) -> tuple[list[Floats], dict[tuple[int, int], Floats], tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, rng.integers(1, 6)).tolist()

    def table(*shape: int) -> Floats:
        full = (batch, *shape) if batch and rng.random() < 0.6 else shape
        return np.where(rng.random(full) < 0.2, np.inf, rng.integers(-3, 9, full).astype(float))

    pairs = [(a, b) if rng.random() < 0.5 else (b, a) for a in range(len(sizes)) for b in range(a)]
    edges = {(a, b): table(sizes[a], sizes[b]) for a, b in pairs if rng.random() < 0.6}
    keep = tuple(rng.permutation(len(sizes))[: rng.integers(0, 3)].tolist())
    return [table(n) for n in sizes], edges, keep


def price(unary: list[Floats], edges: dict[tuple[int, int], Floats], g: int, x: tuple[int, ...]) -> float:
    total = 0.0
    for v, costs in enumerate(unary):
        total += costs[g, x[v]] if costs.ndim == 2 else costs[x[v]]
    for (a, b), costs in edges.items():
        total += costs[g, x[a], x[b]] if costs.ndim == 3 else costs[x[a], x[b]]
    return total


@settings(max_examples=120)
@given(seed=st.integers(0, 10**6), batch=st.sampled_from([None, 1, 3]))
def test_against_brute_force(seed: int, batch: int | None) -> None:
    unary, edges, keep = random_tables(seed, batch)
    found = eliminate(unary, edges, keep)
    sizes = [costs.shape[-1] for costs in unary]
    assert found.table.shape[-len(keep) or found.table.ndim :] == tuple(sizes[v] for v in keep)
    for g in range(batch or 1):
        best: dict[tuple[int, ...], float] = {}
        for x in itertools.product(*map(range, sizes)):
            kept = tuple(x[v] for v in keep)
            best[kept] = min(best.get(kept, np.inf), price(unary, edges, g, x))
        for kept, cost in best.items():
            assert (found.table[g] if found.batched else found.table)[kept] == cost
            if np.isinf(cost):
                with pytest.raises(InfeasibleError, match="no assignment"):
                    _ = found.decode(g, kept) if found.batched else found.decode(kept)
            else:
                x = found.decode(g, kept) if found.batched else found.decode(kept)
                assert tuple(x[list(keep)]) == kept
                assert price(unary, edges, g, tuple(x.tolist())) == cost


@pytest.mark.parametrize("edges", [((0, 1), (0, 2)), ((1, 0), (0, 2)), ((0, 1), (0, 2), (1, 2)),
                                   ((0, 1), (3, 0), (0, 2)), ((1, 0), (1, 2), (2, 3))], ids=str)
def test_long_loops(edges: tuple[tuple[int, int], ...]) -> None:
    """As if the sum of all were formed: domains are longer than what loops do at a time."""
    rng, sizes = np.random.default_rng(0), (11, 5, 7, 9)
    tables = {(a, b): np.where(rng.random((2, sizes[a], sizes[b])) < 0.3, np.inf, rng.random((2, sizes[a], sizes[b])))
              for a, b in edges}
    unary = [rng.random(n) for n in sizes]
    whole = np.zeros((2, *sizes))
    for v, costs in enumerate(unary):
        whole = whole + np.expand_dims(costs, [u for u in range(4) if u != v])
    for (a, b), table in tables.items():
        turned = table if a < b else table.transpose(0, 2, 1)
        whole = whole + np.expand_dims(turned, [1 + u for u in range(4) if u not in (a, b)])
    np.testing.assert_allclose(eliminate(unary, tables, (1, 2)).table, whole.min(axis=(1, 4)), rtol=1e-12)


def test_chain_by_hand() -> None:
    # x0 - x1 - x2, keep the ends. Through x1 = 0: e[x0, 0] + 1 + f[0, x2]; through x1 = 1: e[x0, 1] + 0 + f[1, x2].
    unary = [np.zeros(2), np.array([1.0, 0.0]), np.zeros(2)]
    edges = {(0, 1): np.array([[0.0, 5.0], [3.0, 1.0]]), (2, 1): np.array([[2.0, 0.0], [4.0, np.inf]])}
    found = eliminate(unary, edges, keep=(2, 0))
    assert found.table.tolist() == [[3.0, 1.0], [5.0, 8.0]]
    assert found.decode((0, 0)).tolist() == [0, 0, 0]
    assert found.decode((0, 1)).tolist() == [1, 1, 0]


def test_width_is_refused_with_its_sizes() -> None:
    unary = [np.zeros(10)] * 5
    clique = {(a, b): np.zeros((10, 10)) for a in range(5) for b in range(a)}
    with pytest.raises(WidthExceeded) as caught:
        eliminate(unary, clique, keep=(), max_table=5000)
    assert (caught.value.sizes, caught.value.entries) == ((10, 10, 10, 10), 10_000)
    assert eliminate(unary, clique, keep=(), max_table=10_000).table == 0
    with pytest.raises(WidthExceeded):
        eliminate(unary, {}, keep=(0, 1, 2, 3), max_table=5000)
    with pytest.raises(WidthExceeded):  # the batch counts
        eliminate([np.zeros((2, 10))] * 5, clique, keep=(), max_table=10_000)


@pytest.mark.parametrize(
    ("unary", "edges", "keep", "said"),
    [
        ([np.zeros(2)], {}, (1,), "kept variables"),
        ([np.zeros(2)], {}, (0, 0), "kept variables"),
        ([np.zeros((2, 2, 2))], {}, (), "variable 0: unary costs of shape"),
        ([np.zeros(0)], {}, (), "variable 0: unary costs of shape"),
        ([np.array([np.nan, 0])], {}, (), "variable 0: a cost is NaN"),
        ([np.array([-np.inf, 0])], {}, (), "variable 0: a cost is NaN or -inf"),
        ([np.zeros(2), np.zeros(3)], {(0, 1): np.zeros((3, 2))}, (), r"edge \(0, 1\): costs of shape"),
        ([np.zeros(2), np.zeros(3)], {(0, 2): np.zeros((2, 3))}, (), r"edge \(0, 2\) does not join"),
        ([np.zeros((2, 3)), np.zeros((4, 3))], {}, (), "batch axes of different lengths"),
    ],
)
def test_bad_input_is_named(
    unary: list[Floats], edges: dict[tuple[int, int], Floats], keep: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ProblemError, match=said):
        eliminate(unary, edges, keep)


def test_order_takes_the_smallest_table_first() -> None:
    # A star: removing a leaf leaves a table of 5, removing the middle one of 3^leaves, until one leaf is left.
    star = [(0, n) for n in range(1, 5)]
    order = elimination_order([5, 3, 3, 3, 3], star, frozenset())
    assert order == [(1, (0,)), (2, (0,)), (3, (0,)), (0, (4,)), (4, ())]
    assert [v for v, _ in elimination_order([5, 3, 3, 3, 3], star, frozenset({1}))] == [2, 3, 4, 0]
    assert elimination_order([3, 3, 3], [(0, 1, 2)], frozenset(), max_table=8) == [(0, (1, 2))]
