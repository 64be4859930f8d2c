"""A problem as a CP-SAT model.

Booleans x[v, i] say that node v takes strategy i:

    sum_i x[v, i] = 1                                                       every node                  (`_add_nodes`)
    sum_h y[g, h] = X[g],  sum_g y[g, h] = X[h]                             every edge with costs       (`_add_edge`)
    X[g] <= sum of X[h] allowed with g, and the other way                   edges of 0 or forbidden     (`_add_edge`)
    sum_v sum_i usage[v, i] x[v, i] <= limit                                every maximal live set      (`add_memory`)

    minimise sum cost[v, i] x[v, i] + sum cost[g, h] y[g, h]

g and h are classes of strategies with equal rows (columns) in the edge's matrix, X[g] the sum of their x: resharding
costs depend on layouts that many strategies share, so the classes are few. Row and column minima of a matrix are moved
into the nodes first. The equations on y are the local marginal polytope (Werner, 2007), whose relaxation is the usual
tight one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from planner.core.problem import INFINITE_COST, Problem
from planner.solvers.live import live_peaks, live_size
from planner.solvers.reductions.parallel_edges import merged_edges, saturated
from planner.solvers.workspace import Workspace

Ints = NDArray[np.int64]

MAX_OBJECTIVE = 2**61
"""CP-SAT sums objectives in 64 bits; larger totals are divided by a unit, rounding each term down."""


Pair = tuple[cp_model.IntVar, tuple[int, Ints], tuple[int, Ints]]
Term = tuple[cp_model.IntVar, int]


@dataclass
class Model:
    """The CP-SAT model being built.

    Attributes:
      cp: the model.
      picks: x[v, i] per node and strategy; None where it is forbidden by its own cost.
      pairs: (y variable, its terms of a, its terms of b): for complete hints.
      terms: (variable, cost) of the objective.
      constant: cost that every solution has.
      unit: what one unit of the objective is worth; over 1 the objective is rounded down, and its bound stays valid.
    """

    cp: cp_model.CpModel
    picks: list[list[cp_model.IntVar | None]]
    costs: list[Ints]
    pairs: list[Pair] = field(default_factory=list[Pair])
    terms: list[Term] = field(default_factory=list[Term])
    constant: int = 0
    unit: int = 1


def model_size(work: Workspace) -> int:
    """An upper estimate of the terms that the model of a workspace has."""
    size = sum(table.size for v in work.alive for u, table in work.near[v].items() if v < u)
    spans = [(span, len(work.alive[v])) for v, span in work.spans.items() if span is not None]
    return size + live_size([span for span, _ in spans], [count for _, count in spans])


def build_model(costs: Sequence[Ints], tables: Mapping[tuple[int, int], Ints]) -> Model:
    """The model without memory (`add_memory`). An infeasible problem gives an infeasible model.

    Args:
      costs: per node, cost of each strategy.
      tables: (a, b) -> cost per pair of strategies.
    """
    cp = cp_model.CpModel()
    picks = [
        [cp.new_bool_var(f"x{v}.{i}") if c < INFINITE_COST else None for i, c in enumerate(column)]
        for v, column in enumerate(costs)
    ]
    model = Model(cp, picks, list(costs))
    for column in picks:
        cp.add_exactly_one([x for x in column if x is not None])
    for (a, b), table in tables.items():
        _add_edge(model, a, b, table.copy())
    _add_node_costs(model)
    total = sum(cost for _, cost in model.terms)
    model.unit = total // MAX_OBJECTIVE + 1
    cp.minimize(_weighted([(x, cost // model.unit) for x, cost in model.terms]))
    return model


def problem_model(problem: Problem) -> Model:
    """The model of a whole problem."""
    model = build_model([saturated(node.costs) for node in problem.nodes], merged_edges(problem))
    if problem.usage_limit is not None:
        for live in live_peaks([node.interval for node in problem.nodes]):
            add_memory(model, {v: np.array(problem.nodes[v].usages) for v in live}, problem.usage_limit)
    return model


def add_memory(model: Model, usages: Mapping[int, Ints], limit: int) -> None:
    """Nodes that are live together use no more than the limit; `usages` of each per strategy."""
    least = {v: int(column.min()) for v, column in usages.items()}
    if sum(int(column.max()) for column in usages.values()) <= limit:
        return
    terms = [
        (x, int(use) - least[v])
        for v, column in usages.items()
        for x, use in zip(model.picks[v], column, strict=True)
        if x is not None and use > least[v]
    ]
    model.cp.add(_weighted(terms) <= limit - sum(least.values()))


def add_hint(model: Model, hint: Sequence[int]) -> None:
    """Start the search from a choice per node (-1: none), the variables of the edges included."""
    for column, pick in zip(model.picks, hint, strict=True):
        for i, x in enumerate(column):
            if x is not None and pick >= 0:
                model.cp.add_hint(x, i == pick)
    for y, (a, rows), (b, columns) in model.pairs:
        if hint[a] >= 0 and hint[b] >= 0:
            model.cp.add_hint(y, bool(hint[a] in rows and hint[b] in columns))


def picked(model: Model, value: Callable[[cp_model.IntVar], bool]) -> tuple[int, ...]:
    """The strategy per node of a solution, which `value` gives variable by variable."""
    return tuple(next(i for i, x in enumerate(column) if x is not None and value(x)) for column in model.picks)


def proven_bound(model: Model, objective_bound: float) -> int:
    """CP-SAT's bound, a float, as a cost: its ceiling below 2^50, where that is exact, and a little less above."""
    if not math.isfinite(objective_bound):
        return 0
    safe = math.ceil(objective_bound - 1e-4) if objective_bound < 2**50 else math.floor(objective_bound * (1 - 1e-14))
    return model.constant + safe * model.unit


def _add_node_costs(model: Model) -> None:
    for column, costs in zip(model.picks, model.costs, strict=True):
        allowed = [(x, int(c)) for x, c in zip(column, costs, strict=True) if x is not None]
        least = min((c for _, c in allowed), default=0)
        model.constant += least
        model.terms += [(x, c - least) for x, c in allowed if c > least]


def _add_edge(model: Model, a: int, b: int, table: Ints) -> None:
    """Constraints and costs of one edge; `table` is used up."""
    allowed = table < INFINITE_COST
    for v, mask in ((a, allowed.any(axis=1)), (b, allowed.any(axis=0))):
        for i in np.flatnonzero(~mask):
            if (x := model.picks[v][i]) is not None:
                model.cp.add(x == 0)
    _move_minima(model, a, table)
    _move_minima(model, b, table.T)
    if not table[allowed].any() and allowed.all():
        return
    rows, row_class = np.unique(table, axis=0, return_inverse=True)
    core, column_class = np.unique(rows, axis=1, return_inverse=True)
    a_classes: list[Ints] = [np.flatnonzero(row_class.ravel() == g) for g in range(core.shape[0])]
    b_classes: list[Ints] = [np.flatnonzero(column_class.ravel() == h) for h in range(core.shape[1])]
    a_sums = [_sum(model, a, members) for members in a_classes]
    b_sums = [_sum(model, b, members) for members in b_classes]
    if not core[core < INFINITE_COST].any():
        _add_compatibility(model, core < INFINITE_COST, a_sums, b_sums)
        return
    pairs: dict[tuple[int, int], cp_model.IntVar] = {}
    for g, h in np.argwhere(core < INFINITE_COST).tolist():
        y = model.cp.new_bool_var(f"y{a}.{b}.{g}.{h}")
        pairs[g, h] = y
        model.pairs.append((y, (a, a_classes[g]), (b, b_classes[h])))
        if core[g, h]:
            model.terms.append((y, int(core[g, h])))
    for g, total in enumerate(a_sums):
        model.cp.add(sum(pairs[g, h] for h in range(len(b_sums)) if (g, h) in pairs) == total)
    for h, total in enumerate(b_sums):
        model.cp.add(sum(pairs[g, h] for g in range(len(a_sums)) if (g, h) in pairs) == total)


def _add_compatibility(
    model: Model, allowed: NDArray[np.bool_], a_sums: list[cp_model.LinearExpr], b_sums: list[cp_model.LinearExpr]
) -> None:
    for g, row in enumerate(allowed):
        if not row.all():
            model.cp.add(a_sums[g] <= sum(b_sums[h] for h in np.flatnonzero(row)))
    for h, column in enumerate(allowed.T):
        if not column.all():
            model.cp.add(b_sums[h] <= sum(a_sums[g] for g in np.flatnonzero(column)))


def _move_minima(model: Model, v: int, table: Ints) -> None:
    """Move the row minima of an edge's matrix [strategies of v, ...] into the costs of v, in place."""
    least = table.min(axis=1)
    movable = (least > 0) & (least < INFINITE_COST)
    least = np.where(movable, least, 0)
    forbidden = table >= INFINITE_COST
    table -= least[:, None]
    table[forbidden] = INFINITE_COST
    # The sum is cut at INFINITE_COST, as everywhere: a dearer strategy is in no solution.
    model.costs[v] = np.minimum(model.costs[v] + least, INFINITE_COST)


def _sum(model: Model, v: int, members: Ints) -> cp_model.LinearExpr:
    return _weighted([(x, 1) for x in (model.picks[v][int(i)] for i in members) if x is not None])


def _weighted(terms: Sequence[Term]) -> cp_model.LinearExpr:
    # OR-Tools' stubs leave the parameter types of weighted_sum open.
    return cp_model.LinearExpr.weighted_sum(  # pyright: ignore[reportUnknownMemberType]
        [x for x, _ in terms], [weight for _, weight in terms]
    )
