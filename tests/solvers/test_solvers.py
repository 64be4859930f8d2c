"""Contract of every solver in the table: right on random problems, honest about what it proves."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem, Status, evaluate
from planner.core.problem_io import read_problem
from planner.errors import ProblemError, UnknownNameError
from planner.solvers import SOLVERS, Progress, auto, solve
from tests.solvers.random_problems import brute_force, problems

EXAMPLE = read_problem(Path(__file__).parents[1] / "data" / "iopddl_example.json")
ALL = ("auto", "cpsat", "elimination", "exhaustive")


def test_table_holds_them() -> None:
    assert tuple(SOLVERS) == ALL


@pytest.mark.parametrize("solver", ALL)
@settings(max_examples=40)
@given(data=st.data())
def test_agrees_with_brute_force(solver: str, data: st.DataObject) -> None:
    problem = data.draw(problems(huge=solver != "elimination"))
    best = brute_force(problem)
    found = solve(problem, timeout_s=20, solver=solver)
    if found.status is Status.UNKNOWN:
        assert solver == "elimination"
        assert problem.usage_limit is not None
        assert best is None or found.bound <= best
    elif best is None:
        assert (found.status, found.choice, found.cost) == (Status.INFEASIBLE, None, None)
        assert found.bound == INFINITE_COST
    elif solver == "cpsat" and found.status is Status.FEASIBLE:  # totals over 2^61 are rounded, and said to be
        assert sum(max(c for c in item.costs if c < INFINITE_COST) for item in problem.nodes + problem.edges) >= 2**61
        assert found.cost is not None and found.bound <= best <= found.cost <= best + 10
    else:
        assert found.choice is not None
        assert evaluate(problem, found.choice).feasible
        assert evaluate(problem, found.choice).cost == found.cost == found.bound == best
        assert found.status is Status.OPTIMAL
        assert found.gap == 0.0


@settings(max_examples=60)
@given(problem=problems(huge=False, max_nodes=6))
def test_auto_without_elimination(problem: Problem) -> None:
    """Small problems end in elimination; without it they pass through dual ascent, fixing and CP-SAT."""
    best = brute_force(problem)
    with mock.patch.object(auto, "MAX_TABLE", 0):
        found = solve(problem, timeout_s=20)
    assert found.cost == best
    assert found.status is (Status.INFEASIBLE if best is None else Status.OPTIMAL)
    if found.choice is not None:
        assert evaluate(problem, found.choice).feasible


def test_parts_are_solved_one_by_one() -> None:
    # Two copies of a problem at different times, one of which can't be improved by the other.
    hard = EXAMPLE.nodes
    later = tuple(Node((n.interval[0] + 1000, n.interval[1] + 1000), n.costs, n.usages) for n in hard)
    edges = EXAMPLE.edges + tuple(Edge(e.a + len(hard), e.b + len(hard), e.costs) for e in EXAMPLE.edges)
    seen: list[Progress] = []
    with mock.patch.object(auto, "RULES", ()), mock.patch.object(auto, "LIGHT", ()):
        found = solve(Problem("twice", hard + later, edges, EXAMPLE.usage_limit), timeout_s=20, on_progress=seen.append)
    assert (found.cost, found.bound) == (890, 890)
    assert found.choice == (0, 0, 2, 1, 0) * 2
    assert "2 parts" in found.solver
    assert seen[-1].cost == 890
    assert all(p.bound <= 890 for p in seen)


def test_contest_instance(shared_data: Callable[[str], Path]) -> None:
    """G: the best cost that any team found in 120 s is 217,039; here it is proven optimal."""
    problem = read_problem(shared_data("iopddl/asplos-2025-iopddl-G.json.gz"))
    found = solve(problem, timeout_s=60)
    assert found.choice is not None
    verdict = evaluate(problem, found.choice)
    assert verdict.feasible
    assert verdict.cost == found.cost == found.bound == 217_039


@pytest.mark.parametrize("solver", ["auto", "cpsat", "exhaustive"])
def test_example(solver: str) -> None:
    best = brute_force(EXAMPLE)
    found = solve(EXAMPLE, timeout_s=20, solver=solver)
    # Of 12 choices, those with strategy 1 of node 2 use 55 > 50. The best of the rest, (0, 0, 2, 1, 0):
    # nodes 15 + 55 + 35 + 75 + 95 = 275, edges 30 + 40 + 10 + 30 + 60 = 170.
    assert found.cost == best == 275 + 170
    assert found.choice == (0, 0, 2, 1, 0)
    assert found.status is Status.OPTIMAL


def test_elimination_bounds_a_binding_limit() -> None:
    # Without the limit the best is (0, 0, 1, 1, 0) at 415, which uses 55 > 50.
    found = solve(EXAMPLE, timeout_s=20, solver="elimination")
    assert (found.status, found.choice, found.bound) == (Status.UNKNOWN, None, 415)


@pytest.mark.parametrize("solver", ["auto", "cpsat", "exhaustive"])
def test_memory_alone_can_be_infeasible(solver: str) -> None:
    nodes = tuple(Node((0, 2), (1, 2), (4, 3)) for _ in range(3))
    assert solve(Problem("", nodes, (), 8), timeout_s=20, solver=solver).status is Status.INFEASIBLE
    tight = solve(Problem("", nodes, (), 9), timeout_s=20, solver=solver)
    assert (tight.status, tight.cost) == (Status.OPTIMAL, 6)


@pytest.mark.parametrize("solver", ALL)
def test_no_nodes(solver: str) -> None:
    found = solve(Problem("", (), (), 3), timeout_s=20, solver=solver)
    assert (found.choice, found.cost, found.status) == ((), 0, Status.OPTIMAL)


@pytest.mark.parametrize("solver", ["auto", "cpsat", "exhaustive"])
def test_costs_near_the_forbidden_mark_do_not_overflow(solver: str) -> None:
    # 30 nodes that may each cost almost 10^18 or beyond 64 bits; only the cheap strategies make an allowed total.
    nodes = tuple(Node((0, 1), (10**18 - 1, 10**30, n), (0, 0, 0)) for n in range(12))
    edges = tuple(Edge(n, n + 1, (10**18 - 1,) * 8 + (1,)) for n in range(11))
    problem = Problem("", nodes, edges)
    found = solve(problem, timeout_s=20, solver=solver)
    assert found.cost == sum(range(12)) + 11
    assert found.choice == (2,) * 12


def test_cpsat_rounds_a_huge_objective_down() -> None:
    # Totals over 2^60: the objective is in coarser units, so the bound may fall short, but never exceeds the optimum.
    nodes = tuple(Node((0, 1), (4 * 10**16 + n, 9 * 10**17), (0, 0)) for n in range(20))
    found = solve(Problem("", nodes, ()), timeout_s=20, solver="cpsat")
    assert found.cost == 20 * 4 * 10**16 + 190
    assert found.cost * (1 - 1e-12) <= found.bound <= found.cost


@pytest.mark.parametrize("solver", ["auto", "cpsat"])
def test_progress_and_hint(solver: str) -> None:
    seen: list[Progress] = []
    hint = (0, 1, 0, 0, 0)
    found = solve(EXAMPLE, timeout_s=20, solver=solver, on_progress=seen.append, hint=hint)
    assert found.cost == 445
    assert all(p.bound <= 445 <= p.cost and p.time_s >= 0 for p in seen)
    if solver == "cpsat":
        assert seen[-1].cost == 445


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean cpsat"):
        solve(EXAMPLE, timeout_s=1, solver="cp-sat")
    with pytest.raises(ProblemError, match="timeout is 0 s"):
        solve(EXAMPLE, timeout_s=0)
    with pytest.raises(ProblemError, match="timeout is nan s"):
        solve(EXAMPLE, timeout_s=float("nan"))
    with pytest.raises(ProblemError, match="the seed is -1"):
        solve(EXAMPLE, timeout_s=1, seed=-1)
    with pytest.raises(ProblemError, match="0 threads"):
        solve(EXAMPLE, timeout_s=1, threads=0)
    with pytest.raises(ProblemError, match="the hint has 2 choices for 5 nodes"):
        solve(EXAMPLE, timeout_s=1, hint=(0, 0))
    with pytest.raises(ProblemError, match="picks strategy 7 of node 2"):
        solve(EXAMPLE, timeout_s=1, hint=(0, 0, 7, 0, 0))
    with pytest.raises(ProblemError, match="node 0 has no strategies"):
        solve(Problem("", (Node((0, 1), (), ()),), ()), timeout_s=1)
    with pytest.raises(ProblemError, match="too large to be exact in floats"):
        solve(Problem("", (Node((0, 1), (10**17,), (0,)),), ()), timeout_s=1, solver="elimination")
    with pytest.raises(ProblemError, match="combinations are too many"):
        solve(Problem("", (Node((0, 1), (0,) * 9, (0,) * 9),) * 9, ()), timeout_s=1, solver="exhaustive")
