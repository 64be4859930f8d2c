"""What a number of microbatches is looked at with: its program made ready, meshes and recipes whose tables it needs.

In: a `Request`, what is `Known` for it. Out: a `Ground`.
"""

from dataclasses import dataclass

from planner.errors import RewriteError
from planner.known import Known
from planner.prepared import Prepared
from planner.recipes import Recipe, are_searched, standard_recipes
from planner.record import Run
from planner.request import Request
from planner.spaces import MeshSpace, SubmeshSpace, mesh_spaces


@dataclass(frozen=True)
class Ground:
    """A program made ready, the submeshes that are searched, the recipes it may have."""

    prepared: Prepared
    spaces: tuple[SubmeshSpace, ...]
    recipes: tuple[Recipe, ...]

    def meshes(self, *, plans: bool) -> tuple[MeshSpace, ...]:
        """Those whose tables plans and recipes need, or recipes alone."""
        searched = [m for s in self.spaces for m in s.meshes] if plans else []
        return tuple(dict.fromkeys((*searched, *(r.space for r in self.recipes))))


def microbatch_counts(batch_size: int) -> tuple[int, ...]:
    """Powers of two that divide the batch, ascending."""
    counts: list[int] = []
    n = 1
    while batch_size % n == 0 and n <= batch_size:
        counts.append(n)
        n *= 2
    return tuple(counts)


def neighbours(run: Run, counts: tuple[int, ...]) -> list[int]:
    """The counts beside that of the best plan that were not tried, the one on the more promising side first: refined,
    it may become the best, and the other no neighbour."""
    if run.best is None:
        return []
    at, done = counts.index(run.best.prepared.program.microbatches), {*run.tried, *run.refused}
    near = [i for i in (at - 1, at + 1) if 0 <= i < len(counts) and counts[i] not in done]
    beyond = {i: counts[2 * i - at] if 0 <= 2 * i - at < len(counts) else 0 for i in near}
    return [counts[i] for i in sorted(near, key=lambda i: floor_s(run, beyond[i]))]


def floor_s(run: Run, microbatches: int) -> float:
    """Seconds below every plan of that many; infinite if none was looked for."""
    return min((seconds for (count, _), seconds in run.floors.items() if count == microbatches), default=float("inf"))


def ground_for(request: Request, known: Known, microbatches: int) -> Ground:
    """That of a number of microbatches.

    Raises:
      RewriteError: rewrites that are asked for do not apply to microbatches of that size.
    """
    spaces = mesh_spaces(request.cluster, request.pins, single=request.kind == "step")
    with request.phases.phase("trace"):
        program = known.programs.program(microbatches)
    request.tables.expect(len(program.micro.ops), sum(len(s.meshes) for s in spaces))
    with request.phases.phase("layers"):
        prepared = known.programs.prepared(program)
    searched = are_searched(request.pins) and not request.cluster.parts
    return Ground(prepared, spaces, tuple(standard_recipes(request, prepared)) if searched else ())


def look_ahead(request: Request, known: Known, microbatches: int) -> None:
    """Have the tables of a number of microbatches made that will probably be looked at next."""
    if request.tables.have_help:
        try:
            ground = ground_for(request, known, microbatches)
        except RewriteError:  # who looks at it next will see
            return
        known.ahead(request, ground.prepared, ground.meshes(plans=True))
