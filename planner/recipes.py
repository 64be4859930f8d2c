"""The standard recipes, priced by the code that finds plans, on the programs that it looks at.

In: a `Request`, a `Prepared` program, what gives the table of a mesh. Out: per recipe its best `Candidate`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from planner.candidates import best_pipeline, line_schedules
from planner.core.pins import Pins
from planner.costs.topology import logical_mesh, submesh_of
from planner.intraop.compose import SliceTable
from planner.pipelines.pipeline import Candidate
from planner.prepared import Prepared
from planner.record import Run
from planner.request import Request
from planner.spaces import RECIPES, MeshSpace, SubmeshSpace, recipe_uses


def are_searched(pins: Pins) -> bool:
    """Whether the recipes are in the space searched (they are the user's own business once the mesh or tensors are
    pinned)."""
    return pins.recipe is None and pins.mesh_axes is None and not pins.params and not pins.activations \
        and pins.stages is None and pins.boundaries is None


def recipes(request: Request, run: Run, prepared: Prepared, table: Callable[[MeshSpace], SliceTable]
            ) -> Iterator[tuple[str, Candidate | None]]:
    """The standard recipes, priced by the same code on the same program; the run remembers all of them."""
    whole = request.cluster
    count = whole.device_count
    if count == 1:
        return
    for name, recipe in RECIPES:
        yield name, _recipe(request, prepared, table, recipe, 1, count)
    if request.kind == "step":
        return
    stages = 2
    best: Candidate | None = None
    while stages <= min(count, len(prepared.layers)):
        if count % stages == 0 and stages <= prepared.program.microbatches:
            found = _recipe(request, prepared, table, "data", stages, count // stages)
            if found is not None:
                run.note(found)
            if found is not None and (best is None or found.step_time_s < best.step_time_s):
                best = found
        stages *= 2
    yield "even pipeline", best


def _recipe(request: Request, prepared: Prepared, table: Callable[[MeshSpace], SliceTable], recipe: str, stages: int,
            devices: int) -> Candidate | None:
    submesh = submesh_of(request.cluster, devices)
    if submesh is None:
        return None
    shape = (devices,) if devices > 1 else ()
    names = ("data",) if devices > 1 and recipe != "tensor" else ("model",) if devices > 1 else ()
    mesh = logical_mesh(request.cluster, submesh, shape)
    space = MeshSpace(mesh, names, recipe_uses(recipe, names))
    count = len(prepared.layers)
    cuts = tuple(round(count * s / stages) for s in range(1, stages))
    pins = replace(request.pins, stages=stages, boundaries=cuts or None)
    spaces = (SubmeshSpace(submesh, (space,)),)
    device = request.cluster.device
    names = line_schedules(request.kind, request.pins, device)[:1] or line_schedules(request.kind, Pins(), device)[:1]
    return best_pipeline(prepared, request.cluster, spaces, {space: table(space)}, pins, names, prove=False).candidate
