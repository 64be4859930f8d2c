"""Exact means on the merged graph: elimination, and CP-SAT with memory rows only at the times that matter so far.

Graphs of tensor programs often merge into a few hundred nodes, which CP-SAT solves to the optimum; but they have
thousands of times, and a row of memory for each is too much. Left out, a row can only lower the optimum, so the bound
stays true; a solution that breaks one brings its peaks into the model, and the search goes on (cutting planes in the
way of Dantzig, Fulkerson and Johnson, 1954).

In: a `Large` with prices. Out: what is found and proven, learnt by the `Large`.
"""

import threading
import time

import numpy as np
from ortools.sat.python import cp_model

from planner.core.problem import INFINITE_COST
from planner.errors import ProblemError
from planner.solvers.cpsat_model import Model, add_hint, add_memory, build_model, picked, proven_bound
from planner.solvers.cpsat_run import run_cpsat
from planner.solvers.eliminate_tables import eliminate
from planner.solvers.elimination import EXACT_FLOAT, as_floats
from planner.solvers.elimination_code import WidthExceeded
from planner.solvers.large.flat import FlatModel, Ints
from planner.solvers.large.incumbent import Large
from planner.solvers.large.prices import Prices
from planner.solvers.large.watch import peaks, watch

TIGHT = 50
"""Peaks within 1 / TIGHT of the largest room are in the model from the start. [chosen]"""

MAX_TABLE = 1_000_000
"""Entries of elimination's largest table: seconds at most."""

MOST_ENTRIES = 150_000
"""Pairs of choices in the largest model that is tried: beyond it tree moves find more in the same time. [chosen: A's
35,000 take 10 s, M's 1.6 million never end]"""


def eliminate_merged(large: Large) -> None:
    """Eliminate all nodes if that is cheap: a bound, and the optimum if it fits."""
    costs, tables = _costs(large.model)
    try:
        edges = {pair: as_floats(table) for pair, table in tables.items()}
        found = eliminate([as_floats(c) for c in costs], edges, (), MAX_TABLE)
    except (WidthExceeded, ProblemError):
        return
    best = float(found.table)
    if best >= EXACT_FLOAT:
        if best > INFINITE_COST * (1 + 1e-9):  # clear of rounding
            large.prove(INFINITE_COST)
        return
    choice = found.decode(())
    if large.model.fits(choice):
        large.learn(choice, best)
    large.prove(int(best))


def is_exact_tried(model: FlatModel) -> bool:
    """Whether the model is small enough."""
    return len(model.graph.tables) <= MOST_ENTRIES


def solve_exactly(large: Large, prices: Prices, deadline: float, threads: int, stop: threading.Event) -> None:
    """Search until the optimum is proven, or the deadline, or `stop`."""
    model = large.model
    built = build_model(*_costs(model))
    slack = int(np.abs(model.room).max(initial=0)) // TIGHT
    known = set[int]()
    times = {int(t) for t in np.flatnonzero(prices.prices > 0)}
    if large.best is not None:
        times |= {int(t) for t in peaks(model.usage(large.best), model.room, slack)}
    while not (stop.is_set() or large.is_closed) and time.perf_counter() < deadline:
        _add_rows(built, model, sorted(times - known))
        known |= times
        times = _round(large, built, deadline, threads, stop)
        if not times - known:
            return


def _round(large: Large, built: Model, deadline: float, threads: int, stop: threading.Event) -> set[int]:
    """Search the model as it is; the times at which a solution was over the limit (none if it ended otherwise)."""
    built.cp.clear_hints()  # pyright: ignore[reportUnknownMemberType]
    if large.best is not None:
        add_hint(built, large.best.tolist())
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.01, deadline - time.perf_counter())
    solver.parameters.num_workers = threads
    solver.parameters.random_seed = large.seed
    seen = _Seen(large, built)

    def is_over() -> bool:
        large.report()
        return stop.is_set() or large.is_closed

    status, _ = run_cpsat(solver, built.cp, seen, is_over)
    if status == cp_model.INFEASIBLE:
        large.prove(INFINITE_COST)
    elif status != cp_model.MODEL_INVALID:
        large.prove(proven_bound(built, solver.best_objective_bound))
    return seen.missed


class _Seen(cp_model.CpSolverSolutionCallback):
    """Learns what fits at all times; ends the round at a solution that doesn't."""

    def __init__(self, large: Large, built: Model) -> None:
        super().__init__()
        self._large, self._built = large, built
        self.missed: set[int] = set()

    def on_solution_callback(self) -> None:
        choice = np.array(picked(self._built, self.boolean_value))
        model = self._large.model
        over = peaks(model.usage(choice), model.room, 0)
        if len(over):
            self.missed |= {int(t) for t in over}
            self.stop_search()
        else:
            self._large.learn(choice, model.cost(choice))
        self._large.prove(proven_bound(self._built, self.best_objective_bound))


def _costs(model: FlatModel) -> tuple[list[Ints], dict[tuple[int, int], Ints]]:
    """Costs per node, and per edge as a matrix."""
    graph, sizes = model.graph, model.sizes().tolist()
    whole, tables = graph.costs.astype(np.int64), graph.tables.astype(np.int64)
    offset = graph.offset.tolist()
    pairs: dict[tuple[int, int], Ints] = {}
    for a, b, start in zip(graph.a.tolist(), graph.b.tolist(), graph.start.tolist(), strict=True):
        pairs[a, b] = tables[start : start + sizes[a] * sizes[b]].reshape(sizes[a], sizes[b])
    return [whole[at:end] for at, end in zip(offset[:-1], offset[1:], strict=True)], pairs


def _add_rows(built: Model, model: FlatModel, times: list[int]) -> None:
    """Memory at these grid times."""
    few = watch(model, np.array(times, dtype=np.int64))
    sizes = few.sizes()
    memory = few.memory
    rows: list[dict[int, Ints]] = [{} for _ in times]
    for v in range(few.nodes):
        for k in range(memory.use[v], memory.use[v + 1]):
            place = memory.place[k]
            for t in range(memory.first[k], memory.last[k]):
                column = memory.usages[place : place + sizes[v]]
                rows[t][v] = rows[t][v] + column if v in rows[t] else column
    for row, room in zip(rows, memory.room.tolist(), strict=True):
        add_memory(built, row, room)
