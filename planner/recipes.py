"""The standard recipes, priced by the code that finds plans, on the programs that it looks at.

In: a `Request`, a `Prepared` program, the tables of the recipes' meshes. Out: per recipe its best `Candidate`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.candidates import best_pipeline, line_schedules
from planner.core.hardware import Cluster, Submesh
from planner.core.pins import Pins
from planner.costs.topology import logical_mesh, submesh_of
from planner.intraop.compose import SliceTable
from planner.pipelines.pipeline import Candidate
from planner.prepared import Prepared
from planner.record import Run
from planner.request import Request
from planner.spaces import RECIPES, MeshSpace, SubmeshSpace, recipe_uses

EVEN = "even pipeline"
"""Equal numbers of layers on equal stages, each data parallel; of any number of stages."""


def are_searched(pins: Pins) -> bool:
    """Whether the recipes are in the space searched (they are the user's own business once the mesh or tensors are
    pinned)."""
    return pins.recipe is None and pins.mesh_axes is None and not pins.params and not pins.activations \
        and pins.stages is None and pins.boundaries is None


@dataclass(frozen=True)
class Recipe:
    """A standard recipe on equal stages of a submesh; several may have a name, of which the fastest counts."""

    name: str
    stages: int
    submesh: Submesh
    space: MeshSpace


def standard_recipes(request: Request, prepared: Prepared) -> Iterator[Recipe]:
    """Those that this number of microbatches may have."""
    count = request.cluster.device_count
    if count == 1:
        return
    for name, recipe in RECIPES:
        yield from _on(request.cluster, name, recipe, 1)
    stages = 2
    while request.kind != "step" and stages <= min(count, len(prepared.layers), prepared.program.microbatches):
        yield from _on(request.cluster, EVEN, "data", stages)
        stages *= 2


def _on(cluster: Cluster, name: str, recipe: str, stages: int) -> Iterator[Recipe]:
    """A recipe on so many stages, if there are such submeshes."""
    devices, left = divmod(cluster.device_count, stages)
    submesh = None if left else submesh_of(cluster, devices)
    if submesh is None:
        return
    shape = (devices,) if devices > 1 else ()
    names = ("data",) if devices > 1 and recipe != "tensor" else ("model",) if devices > 1 else ()
    yield Recipe(name, stages, submesh,
                 MeshSpace(logical_mesh(cluster, submesh, shape), names, recipe_uses(recipe, names)))


def best_of_recipes(request: Request, run: Run, prepared: Prepared, recipes: Sequence[Recipe],
                    tables: dict[MeshSpace, SliceTable]) -> Iterator[tuple[str, Candidate | None]]:
    """The best of every name, priced by the same code on the same program; the run remembers all of them."""
    if request.cluster.device_count == 1:
        return
    for name in (*(name for name, _ in RECIPES), *([EVEN] if request.kind != "step" else [])):
        found = [_priced(request, prepared, recipe, tables[recipe.space]) for recipe in recipes if recipe.name == name]
        some = [candidate for candidate in found if candidate is not None]
        if name == EVEN:
            for candidate in some:
                run.note(candidate)
        yield name, min(some, key=lambda c: c.step_time_s, default=None)


def _priced(request: Request, prepared: Prepared, recipe: Recipe, table: SliceTable) -> Candidate | None:
    count, stages = len(prepared.layers), recipe.stages
    cuts = tuple(round(count * s / stages) for s in range(1, stages))
    pins = replace(request.pins, stages=stages, boundaries=cuts or None)
    spaces = (SubmeshSpace(recipe.submesh, (recipe.space,)),)
    device = request.cluster.device
    names = line_schedules(request.kind, request.pins, device)[:1] or line_schedules(request.kind, Pins(), device)[:1]
    return best_pipeline(prepared, request.limits, spaces, {recipe.space: table}, pins, names, prove=False).candidate
