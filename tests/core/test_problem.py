"""The referee: costs, peaks and violations of hand-computed choices, and agreement with a second, naive count."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Evaluation, Node, Problem, Solution, Status, evaluate
from planner.core.problem_io import read_problem

EXAMPLE = Problem(
    "example",
    (
        Node((30, 70), (15,), (10,)),
        Node((40, 70), (55, 65), (25, 25)),
        Node((50, 120), (25, 45, 35), (15, 20, 15)),
        Node((110, 140), (85, 75), (10, 10)),
        Node((110, 150), (95,), (15,)),
    ),
    (
        Edge(0, 1, (30, 40)),
        Edge(0, 2, (50, 10, 40)),
        Edge(1, 3, (90, 10, 20, 80)),
        Edge(2, 4, (60, 20, 30)),
        Edge(3, 4, (70, 60)),
    ),
    50,
)
"""The contest's example, written out."""


def test_example_by_hand() -> None:
    # nodes 15 + 55 + 25 + 75 + 95 = 265; edges 30 + 50 + 10 + 60 + 60 = 210. Usage in [50, 70): 10 + 25 + 15 = 50.
    assert evaluate(EXAMPLE, (0, 0, 0, 1, 0)) == Evaluation(475, 50, None)


def test_example_over_the_limit() -> None:
    # Strategy 1 of node 2 uses 20: 10 + 25 + 20 = 55 from 50 on. Cost 15+55+45+75+95 + 30+10+10+20+60 = 415.
    found = evaluate(EXAMPLE, (0, 0, 1, 1, 0))
    assert found == Evaluation(415, 55, 50)
    assert not found.feasible


def test_interval_end_is_exclusive() -> None:
    back_to_back = Problem("", (Node((0, 5), (0,), (7,)), Node((5, 9), (0,), (7,))), (), 7)
    assert evaluate(back_to_back, (0, 0)) == Evaluation(0, 7, None)
    empty = Problem("", (Node((5, 5), (0,), (9,)), Node((6, 2), (0,), (9,))), (), 7)
    assert evaluate(empty, (0, 0)) == Evaluation(0, 0, None)


def test_forbidden_is_infeasible() -> None:
    assert not evaluate(Problem("", (Node((0, 1), (INFINITE_COST,), (0,)),), ()), (0,)).feasible


def test_bad_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="4 choices for 5 nodes"):
        evaluate(EXAMPLE, (0, 0, 0, 0))
    with pytest.raises(ValueError, match="node 2: strategy 3 of 3"):
        evaluate(EXAMPLE, (0, 0, 3, 0, 0))


def test_gap() -> None:
    assert Solution((0,), 100, 90, Status.FEASIBLE, "", 0.0).gap == pytest.approx(0.1)
    assert Solution((0,), 0, 0, Status.OPTIMAL, "", 0.0).gap == 0.0
    assert Solution(None, None, 0, Status.UNKNOWN, "", 0.0).gap is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20)), max_size=8), st.integers(0, 40))
def test_usage_counted_point_by_point(rows: list[tuple[int, int, int]], limit: int) -> None:
    problem = Problem("", tuple(Node((a, b), (1,), (use,)) for a, b, use in rows), (), limit)
    at = [sum(use for a, b, use in rows if a <= t < b) for t in range(10)]
    found = evaluate(problem, (0,) * len(rows))
    assert found.peak_usage == max(at)
    assert (found.violated_at is not None) == (max(at) > limit)
    if found.violated_at is not None:
        assert found.violated_at == next(t for t in range(10) if at[t] > limit)
    assert found.cost == len(rows)


def test_example_file_is_the_same() -> None:
    path = Path(__file__).parents[1] / "data" / "iopddl_example.json"
    assert read_problem(path) == EXAMPLE
