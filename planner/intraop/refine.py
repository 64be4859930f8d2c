"""A better choice for a stage that memory limits: points of several prices mixed between its layers.

A slice's variants price all layers alike, which leaves a gap where memory binds. Here the layers of one chosen slice
are solved again at the prices that bound it best (column generation: each price adds a row of points per layer and a
proven bound), then ranges of working memory are searched for the fastest walk through all points, and what is still
open goes to `planner.solvers.solve` as a `core.problem.Problem` of the most promising points. Of the table's prices it
begins with the points that are on the best way through some slice, this one among them.

In: a `Stage`. Out: an `Approach`: a choice that is no slower, and a bound on all choices of the stage; from `finish`,
one that the solver improved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph
from planner.core.problem import Status
from planner.core.recomputation import Recompute
from planner.intraop.chain import Walk, best_walk, chain, priced_walk, tightest, walks_through
from planner.intraop.compose import SliceTable
from planner.intraop.frontier import LayerFrontier
from planner.intraop.points import Points, points
from planner.intraop.slice_choice import SliceChoice, Step
from planner.intraop.solved_layer import layer_frontier
from planner.intraop.stage_problem import StageProblem, stage_problem
from planner.intraop.variants import Multipliers
from planner.intraop.working_limits import Ranges, search_ranges, within
from planner.solvers import solve

TOLERANCE = 1e-4
"""A choice within this part of a bound is not searched further."""

PRICES = 3
"""Prices that layers are solved again at, to bound the stage and then to find points; two are usual. [chosen]"""

PROMISING = 24
"""Points per layer and range of working memory that the solver is given at most. [chosen: with 48 the answer is the
same on GPT-2.6B's stages on 8 V100, and the proof often takes longer than the time limit]"""

SOLVE_S = 2.0
"""Seconds that the solver may take for one stage; it mostly proves its answer in a few tenths."""


@dataclass(frozen=True)
class Stage:
    """Layers [first..last] of a table with microbatches in flight, out of those of a step, and the memory limit."""

    graph: Graph
    table: SliceTable
    first: int
    last: int
    in_flight: int
    microbatches: int
    limit_bytes: float


@dataclass
class Columns:
    """The layers' frontiers, one list per distinct layer, growing by one per price."""

    stage: Stage
    found: dict[int, list[tuple[LayerFrontier, Multipliers]]] = field(
        default_factory=dict[int, list[tuple[LayerFrontier, Multipliers]]])
    prices: list[float] = field(default_factory=list[float])

    def layers(self) -> tuple[LayerFrontier, ...]:
        return tuple(self.stage.table.layers[self.stage.first:self.stage.last + 1])

    def points(self, *, newest: bool = False, bounding: bool = False) -> list[Points]:
        """The points per layer, of all prices or only of the newest; equal layers share an object."""
        stage, made = self.stage, dict[tuple[int, bool], Points]()
        for n, layer in enumerate(self.layers()):
            if (id(layer), n == 0) not in made:
                some = self.found[id(layer)][-1:] if newest else self.found[id(layer)]
                entering = stage.table.entering_bytes[stage.first] if n == 0 else None
                made[id(layer), n == 0] = points(some, stage.in_flight, stage.microbatches, entering_bytes=entering,
                                                 bounding=bounding)
        return [made[id(layer), n == 0] for n, layer in enumerate(self.layers())]

    def add(self, per_byte_s: float) -> bool:
        """Solve the layers again at a price; False if they were, at nearly that price."""
        if per_byte_s <= 0 or any(abs(per_byte_s - p) <= TOLERANCE * p for p in self.prices):
            return False
        stage, ways = self.stage, [w for w in Recompute if w in self.stage.table.multipliers.recompute]
        prices = Multipliers((per_byte_s,) * len(ways), (stage.in_flight,) * len(ways), tuple(ways))
        for solved in self.found.values():
            old = solved[0][0]
            solved.append((layer_frontier(stage.graph, old.layer, old.before, old.after, prices), prices))
        self.prices.append(per_byte_s)
        return True


@dataclass(frozen=True)
class Approach:
    """What is known of a stage before the solver looks at it.

    Attributes:
      choice: the fastest that was found (None: none fits), and `step_s`, its seconds of a step as if the stage were
        alone.
      bound_s: proven, on those of all choices (0: nothing is proven).
      columns, ranges: where better ones may be.
    """

    choice: SliceChoice | None
    step_s: float
    bound_s: float
    columns: Columns
    ranges: Ranges

    @property
    def is_done(self) -> bool:
        return not self.ranges.left or self.step_s <= self.bound_s * (1 + TOLERANCE)


def approach(stage: Stage, choice: SliceChoice | None, to_beat_s: float = float("inf")) -> Approach:
    """Bound a stage and look for a choice that is faster than the one given, which fits; with none given, as no variant
    of the table fits, only bound it. It ends where no choice can take less than `to_beat_s` seconds of a step."""
    table = stage.table
    columns = Columns(stage, {id(f): [(f, table.multipliers)] for f in table.layers[stage.first:stage.last + 1]})
    price = max(table.multipliers.per_byte_s) / 10
    start = None
    if choice is not None:
        steps = choice.steps
        rows, states = [s.row for s in steps], [steps[0].before, *(s.after for s in steps)]
        start = priced_walk(chain(columns.points()), rows, states)
    bound_s = _bound(columns, price, to_beat_s)
    ranges = Ranges(start, ())
    if start is None:
        return Approach(None, float("inf"), bound_s, columns, ranges)
    if bound_s >= to_beat_s:
        return Approach(choice, start.step_s, min(bound_s, start.step_s), columns, ranges)
    for _ in range(PRICES):
        ranges = search_ranges(columns.points(), stage.limit_bytes, ranges.walk, price, tolerance=TOLERANCE)
        if not ranges.left or ranges.bound_s() <= bound_s * (1 + TOLERANCE) or not columns.add(_price(ranges)):
            break
    walk = ranges.walk
    assert walk is not None
    found = choice if choice is not None and walk is start else _choice(stage, columns.points(), walk)
    return Approach(found, walk.step_s, min(bound_s, walk.step_s), columns, ranges)


def open_problem(known: Approach) -> StageProblem | None:
    """What is still open of a stage, as a problem of its most promising points; None if nothing is."""
    if known.ranges.walk is None or known.is_done:
        return None
    layers, limit = known.columns.points(), known.columns.stage.limit_bytes
    return stage_problem(layers, _promising(layers, limit, known.ranges, known.ranges.walk), limit)


def finish(known: Approach) -> tuple[Approach, str]:
    """Have the solver look for a faster choice; and what it did, in words ("" where nothing faster was found)."""
    stage, walk, problem = known.columns.stage, known.ranges.walk, open_problem(known)
    if walk is None or problem is None:
        return known, ""
    found = solve(problem.problem, timeout_s=SOLVE_S, hint=problem.choice(walk.rows, walk.states),
                  raises=True)
    if found.choice is None:
        return known, ""
    layers = known.columns.points()
    better = priced_walk(chain(layers), *problem.walk(found.choice))
    if better.step_s >= walk.step_s or better.peak_bytes > stage.limit_bytes:
        return known, ""
    proof = "" if found.status is Status.OPTIMAL else f", gap {found.gap:.2%}"
    return (replace(known, choice=_choice(stage, layers, better), step_s=better.step_s,
                    bound_s=min(known.bound_s, better.step_s)),
            f"{found.solver.split(':')[0]} over {len(problem.problem.nodes)} choices{proof}")


def _bound(columns: Columns, price: float, enough_s: float) -> float:
    """A bound on every choice of the stage: layers solved exactly at the best price (the table has price 0). What they
    hold has the limit less the working bytes that some layer needs whatever is chosen. 0 where the table proves
    nothing; as soon as it is enough, it is not raised further."""
    stage = columns.stage
    if not stage.table.exact:
        return 0.0
    best, _ = best_walk(chain(columns.points(bounding=True)), 0.0)
    least = max(stage.table.least_working_bytes[stage.first:stage.last + 1])
    for _ in range(PRICES):
        if best >= enough_s:
            break
        dual = tightest(chain(columns.points(bounding=True)), stage.limit_bytes, price, least)
        if not columns.add(dual.per_byte_s):
            break
        cost, _ = best_walk(chain(columns.points(newest=True, bounding=True)), dual.per_byte_s)
        best = max(best, cost - dual.per_byte_s * (stage.limit_bytes - least))
    return best


def _price(ranges: Ranges) -> float:
    """The price of the range that is most promising; 0 if none is left."""
    return ranges.left[0].dual.per_byte_s if ranges.left else 0.0


def _promising(layers: Sequence[Points], limit_bytes: float, ranges: Ranges, walk: Walk) -> list[NDArray[np.bool_]]:
    """Per layer, the points with the cheapest walks through them, of each open range, and those of the walk."""
    found: dict[int, NDArray[np.bool_]] = {id(p): np.zeros(p.step_s.shape, dtype=bool) for p in layers}
    for r in ranges.left:
        some = within(layers, r.most_bytes)
        price = r.dual.per_byte_s
        for p, through in zip(layers, walks_through(some, price), strict=True):
            bounds = through - price * (limit_bytes - r.least_bytes)
            faster = bounds < walk.step_s
            if np.count_nonzero(faster) > PROMISING:
                faster &= bounds < np.partition(bounds[faster], PROMISING)[PROMISING]
            found[id(p)] |= faster
    for p, g, i, o in zip(layers, walk.rows, walk.states[:-1], walk.states[1:], strict=True):
        found[id(p)][g, i, o] = True
    return [found[id(p)] for p in layers]


def _choice(stage: Stage, layers: Sequence[Points], walk: Walk) -> SliceChoice:
    steps: list[Step] = []
    for n, (p, g) in enumerate(zip(layers, walk.rows, strict=True)):
        source = p.sources[g]
        steps.append(Step(stage.first + n, source.frontier, source.row, walk.states[n], walk.states[n + 1],
                          source.recompute))
    return SliceChoice(tuple(steps), float(stage.table.entering_bytes[stage.first][walk.states[0]]))
