"""Is an intra-operator problem well formed? A `Problem` in; nothing, or an error that names the node or edge, out."""

from planner.core.problem import Edge, Node, Problem
from planner.errors import ProblemError


def check_problem(problem: Problem) -> None:
    """Raise `ProblemError` unless every node and edge of the problem makes sense.

    Sense: each node has as many usages as costs and at least one; all numbers are non-negative integers; an edge joins
    two nodes that exist and has a cost for each pair of their strategies.
    """
    if problem.usage_limit is not None and (type(problem.usage_limit) is not int or problem.usage_limit < 0):
        raise ProblemError(f"usage_limit is {problem.usage_limit!r}", "give a non-negative integer, or leave it out")
    for n, node in enumerate(problem.nodes):
        _check_node(n, node)
    sizes = [len(node.costs) for node in problem.nodes]
    for n, edge in enumerate(problem.edges):
        _check_edge(n, edge, sizes)


def _check_node(n: int, node: Node) -> None:
    if not node.costs:
        raise ProblemError(f"node {n} has no strategies", "a node needs at least one")
    if len(node.costs) != len(node.usages):
        raise ProblemError(f"node {n} has {len(node.costs)} costs but {len(node.usages)} usages", "give one each")
    _check_numbers(f"node {n}: costs", node.costs)
    _check_numbers(f"node {n}: usages", node.usages)
    start_end = node.interval
    if len(start_end) != 2 or type(start_end[0]) is not int or type(start_end[1]) is not int:
        raise ProblemError(f"node {n}: interval is {list(start_end)!r}", "give [start, end), two integers")


def _check_edge(n: int, edge: Edge, sizes: list[int]) -> None:
    for end in (edge.a, edge.b):
        if type(end) is not int or not 0 <= end < len(sizes):
            raise ProblemError(f"edge {n} joins node {end!r}; the nodes are 0 to {len(sizes) - 1}")
    if edge.a == edge.b:
        raise ProblemError(f"edge {n} joins node {edge.a} to itself", "add its costs to the node's own")
    want = sizes[edge.a] * sizes[edge.b]
    if len(edge.costs) != want:
        raise ProblemError(
            f"edge {n} has {len(edge.costs)} costs",
            f"nodes {edge.a} and {edge.b} have {sizes[edge.a]} and {sizes[edge.b]} strategies: give {want}",
        )
    _check_numbers(f"edge {n}: costs", edge.costs)


def _check_numbers(where: str, numbers: tuple[int, ...]) -> None:
    if set(map(type, numbers)) != {int} or min(numbers) < 0:
        bad = next(x for x in numbers if type(x) is not int or x < 0)
        raise ProblemError(f"{where} contain {bad!r}", "all costs and usages are non-negative integers")
