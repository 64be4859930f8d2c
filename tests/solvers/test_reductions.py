"""Every reduction, alone and all together, keeps the optimum, and its solutions are carried back at the same cost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem, evaluate
from planner.solvers.exhaustive import exhaustive
from planner.solvers.reduce import RULES, Rule, reduce_problem
from planner.solvers.reductions.components import components
from planner.solvers.reductions.parallel_edges import merged_edges
from planner.solvers.table import SolveOptions
from tests.solvers.random_problems import brute_force, problems


def check(problem: Problem, rules: tuple[Rule, ...]) -> None:
    best = brute_force(problem)
    reduction = reduce_problem(problem, rules=rules)
    if reduction.impossible:
        assert best is None, reduction.impossible
        return
    found = exhaustive(reduction.problem, SolveOptions(timeout_s=20))
    if found.choice is None or found.cost is None or found.cost + reduction.constant >= INFINITE_COST:
        assert best is None
        return
    choice = reduction.expand(found.choice)
    verdict = evaluate(problem, choice)
    assert verdict.feasible
    assert verdict.cost == best == found.cost + reduction.constant


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_each_alone(rule: Rule, data: st.DataObject) -> None:
    check(data.draw(problems()), (rule,))


@settings(max_examples=200)
@given(problem=problems(max_nodes=6))
def test_all_together(problem: Problem) -> None:
    check(problem, RULES)


@settings(max_examples=60)
@given(problem=problems())
def test_memory_slack_alone(problem: Problem) -> None:
    check(problem, ())


@settings(max_examples=60)
@given(problem=problems(), data=st.data())
def test_hint_is_carried_over(problem: Problem, data: st.DataObject) -> None:
    reduction = reduce_problem(problem, rules=RULES[:2])
    hint = tuple(data.draw(st.integers(0, len(node.costs) - 1)) for node in problem.nodes)
    kept = reduction.restrict(hint)
    assert len(kept) == len(reduction.problem.nodes)
    if not reduction.impossible:
        back = reduction.expand([max(k, 0) for k in kept])
        assert all(b == h for b, h, k in zip(back, hint, kept, strict=False) if k >= 0)


def node(*costs: int, usages: tuple[int, ...] | None = None, span: tuple[int, int] = (0, 1)) -> Node:
    return Node(span, costs, usages or (0,) * len(costs))


def test_tree_is_folded_away() -> None:
    nodes = tuple(node(3, 1, 2) for _ in range(7))
    tree = Problem("", nodes, tuple(Edge((n - 1) // 2, n, (0, 5, 5, 5, 0, 5, 5, 5, 0)) for n in range(1, 7)))
    reduction = reduce_problem(tree)
    assert (len(reduction.problem.nodes), reduction.constant) == (0, 7)


def test_usage_keeps_a_node_from_folding() -> None:
    # Each of the two cheap strategies fits alone, both together do not.
    pair = Problem("", (node(0, 9, usages=(5, 1)), node(0, 8, usages=(5, 1))), (), 6)
    reduction = reduce_problem(pair)
    assert len(reduction.problem.nodes) == 2
    assert exhaustive(reduction.problem, SolveOptions(20)).cost == 8
    assert not reduce_problem(Problem("", pair.nodes, (), 10)).problem.nodes


def test_memory_of_a_folded_node_still_counts() -> None:
    # Node 0 always uses 3: folded, but the other two then have 7 left, not 10.
    nodes = (node(0, 1, usages=(3, 3)), node(0, 5, usages=(4, 1)), node(0, 6, usages=(4, 1)))
    reduction = reduce_problem(Problem("", nodes, (), 10))
    assert len(reduction.work.remaining()) == 2
    assert [n.usages for n in reduction.problem.nodes[2:]] == [(3,)]
    assert exhaustive(reduction.problem, SolveOptions(20)).cost == 5


def test_parallel_edges_add_up() -> None:
    problem = Problem("", (node(0, 0), node(0)), (Edge(0, 1, (1, 2)), Edge(1, 0, (10, INFINITE_COST))))
    assert {pair: table.tolist() for pair, table in merged_edges(problem).items()} == {(0, 1): [[11], [INFINITE_COST]]}


def test_forbidden_spreads_and_is_explained() -> None:
    ban, ok = INFINITE_COST, 0
    chain = Problem("", (node(ok, ban), node(0, 0), node(0)), (Edge(0, 1, (ok, ban, 0, 0)), Edge(1, 2, (ban, ok))))
    assert "has no allowed strategy" in reduce_problem(chain, rules=RULES[:1]).impossible


def test_deadline_stops_early() -> None:
    nodes = tuple(node(3, 1, 2) for _ in range(7))
    reduction = reduce_problem(Problem("", nodes, ()), deadline=0.0)
    assert len(reduction.problem.nodes) == 7


@settings(max_examples=150)
@given(problem=problems(max_nodes=6))
def test_parts_add_up(problem: Problem) -> None:
    reduction = reduce_problem(problem, rules=())
    best = brute_force(problem)
    if reduction.impossible:
        assert best is None
        return
    parts = components(reduction.work)
    assert sorted(v for part in parts for v in part) == sorted(reduction.work.remaining())
    found = [exhaustive(reduction.work.as_problem(part), SolveOptions(20)) for part in parts]
    costs = [f.cost for f in found if f.cost is not None]
    total = sum(costs) + reduction.constant
    if len(costs) < len(parts) or total >= INFINITE_COST:
        assert best is None
    else:
        assert total == best


def test_what_makes_nodes_one_part() -> None:
    # 0 and 1 share an edge, 2 and 3 the time [4, 5), 4 a time that can't bind; 5 and 6 meet end to end.
    spans = ((0, 1), (2, 3), (4, 6), (5, 7), (7, 9), (10, 11), (11, 12))
    nodes = tuple(node(0, 1, usages=(0, 0) if n == 4 else (5, 1), span=span) for n, span in enumerate(spans))
    work = reduce_problem(Problem("", nodes, (Edge(0, 1, (1, 2, 3, 9)),), 6), rules=()).work
    assert work.spans[0] is None
    assert components(work) == [(4,), (5,), (6,), (0, 1), (2, 3)]
