"""`plan()`: the whole pipeline on one screen.

trace -> layers -> shardings per layer and mesh -> stages -> the best plan, with the standard recipes beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from planner.cache.programs import keep_programs
from planner.cache.store import FRONTIERS, Cache, cache_of
from planner.cache.tables import KnownTables
from planner.cache.workers import Workers
from planner.core.graph import Program
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.core.plan import PlanRecord
from planner.core.version import package_version
from planner.errors import MeshError, ModelError, PlannerError
from planner.joint.plan import plan_jointly_or_say
from planner.measure import local_cluster
from planner.model import Model
from planner.planned import Plan
from planner.request import Remembered, Request, check_budget, check_pins, deadline_after
from planner.rewriting.program import rewritten
from planner.spaces import RECIPES, mesh_spaces
from planner.trace import trace_unnamed

LEAST_OPERATORS = 16
"""Operators that a program has for each parameter, or more. [measured: 20 for GPT and Wide-ResNet, 29 for Llama]"""


def plan(  # noqa: PLR0913  (options of one call, all named)
        model: Model, mesh: jax.sharding.Mesh | Cluster | Sequence[jax.Device], *, pins: Pins | None = None,
        hardware: Cluster | None = None, budget_s: float | None = None, progress: Callable[[str], None] | None = None,
        cache_dir: Path | None = None, cache: Cache | bool = True, jobs: int | None = None, **pinned: Any) -> Plan:
    """The fastest way found to run a model on a mesh.

    Args:
      model: what to run; its arrays may be abstract (`jax.ShapeDtypeStruct`), nothing is allocated.
      mesh: a `jax.sharding.Mesh` or devices (plan and run there), or a `Cluster` from `planner.cluster(...)` (plan
        only).
      pins: what is fixed; fields of `Pins` may also be given as keywords: `plan(model, mesh, stages=2)`.
      hardware: the profile of the devices of `mesh`; default: measured at first use, then cached in `cache_dir`.
      budget_s: stop searching after about this many seconds and return the best plan so far. With `rewrite="joint"` the
        model as it is comes first, as without; rewrites are looked for in what time that leaves.
      progress: called with a line of text now and then.
      cache_dir: where measured profiles are kept (default: the user's cache directory).
      cache: what was solved is kept there for the next plan, which is the same with it and without: a `planner.Cache`
        of your own, True for the one in `cache_dir`, False for none.
      jobs: processes to plan in, this one included; default: this one, with one more for each further core where there
        is enough to do. The plan does not depend on it.

    Returns:
      The plan, with its predicted time and memory, optimality gap, and the standard recipes priced beside it.

    Raises:
      MemoryLimitError: the model doesn't fit; says what is missing, and which single changes would make it fit.
      PinError, BatchError, MeshError, ModelError, TraceError: see their messages.
    """
    if not isinstance(model, Model):
        raise ModelError(f"{type(model).__name__} is not a planner.Model",
                         "wrap it: planner.Model(loss_fn, params, batch, optimizer=...)")
    _check_optimizer(model)
    check_budget(budget_s)
    fixed = replace(pins or Pins(), **pinned)
    cluster = cluster_of(mesh, hardware, cache_dir)
    kept = cache_of(cache, cache_dir and cache_dir / FRONTIERS)
    with Workers(jobs, progress or _quiet) as workers:
        request = request_for(model, cluster, cache=kept or False, workers=workers)
        request = replace(request, pins=fixed, progress=progress or _quiet, deadline=deadline_after(budget_s))
        _expect(request, model)
        record = plan_jointly_or_say(request)
    if kept is not None and isinstance(request.trace, Remembered):
        _keep_program(kept, request.trace.known, record)
    return Plan(record)


def _expect(request: Request, model: Model) -> None:
    """Have processes started before anything is traced where there will be enough for them to do."""
    check_pins(request)
    meshes = mesh_spaces(request.cluster, request.pins, single=request.kind == "step")
    request.tables.expect(LEAST_OPERATORS * len(jax.tree.leaves(model.params)), sum(len(s.meshes) for s in meshes))


def request_for(model: Model, cluster: Cluster, *, cache: Cache | bool = True, workers: Workers | None = None
                ) -> Request:
    """What a search for a model on a cluster is asked, nothing pinned; the model is traced once for each number of
    microbatches, whatever of the request is replaced afterwards. `cache` as in `plan`; `workers`: processes that help.

    Raises:
      ModelError: the optimizer is none.
    """
    _check_optimizer(model)
    version = package_version()
    tables = KnownTables(cache_of(cache), version, workers=workers or Workers(1))
    return Request(Remembered(partial(trace_unnamed, model)), model.name, model.kind, model.batch_size, cluster, Pins(),
                   version, progress=_quiet, tables=tables)


def _keep_program(cache: Cache, traced: Mapping[int, Program], record: PlanRecord) -> None:
    """Keep the plan's program, so that it can be planned again without the model."""
    if record.microbatches in traced:
        program = rewritten(traced[record.microbatches], record.rewritings)
        keep_programs(cache, [replace(program, fingerprint=record.fingerprint)])


def _check_optimizer(model: Model) -> None:
    """Refuse what is not an optimizer before anything is traced."""
    missing = [name for name in ("init", "update") if not callable(getattr(model.optimizer, name, None))]
    if model.optimizer is not None and missing:
        raise ModelError(f"the optimizer of {model.name!r} is {type(model.optimizer).__name__}, which has no "
                         f"{' and no '.join(missing)}", "give an optax gradient transformation, e.g. optax.adamw(3e-4)")


def compare(model: Model, mesh: jax.sharding.Mesh | Cluster | Sequence[jax.Device], *, hardware: Cluster | None = None,
            progress: Callable[[str], None] | None = None, cache: Cache | bool = True, **pinned: Any
            ) -> dict[str, Plan | str]:
    """The found plan and each standard recipe as a plan of its own; a recipe that can't be planned gives the reason."""
    same: dict[str, Any] = {"hardware": hardware, "progress": progress, "cache": cache}
    found: dict[str, Plan | str] = {"planner": plan(model, mesh, **same, **pinned)}
    recipes: list[tuple[str, dict[str, Any]]] = [(name, {"recipe": recipe, "stages": 1}) for name, recipe in RECIPES]
    recipes.append(("even pipeline, 2 stages × data", {"recipe": "data", "stages": 2}))
    for name, pins in recipes:
        try:
            found[name] = plan(model, mesh, **same, **{**pinned, **pins})
        except PlannerError as error:
            found[name] = str(error)
    return found


def cluster_of(mesh: jax.sharding.Mesh | Cluster | Sequence[jax.Device], hardware: Cluster | None,
               cache_dir: Path | None) -> Cluster:
    """The hardware behind a mesh.

    Raises:
      MeshError: no devices, or a profile that doesn't have as many.
    """
    if isinstance(mesh, Cluster):
        return mesh
    devices = devices_of(mesh)
    if not devices:
        raise MeshError("the mesh has no devices", "give at least one, e.g. jax.make_mesh((8,), ('d',))")
    if hardware is not None:
        if hardware.device_count != len(devices):
            raise MeshError(f"profile {hardware.name!r} has {hardware.device_count} devices, the mesh {len(devices)}",
                            "give a profile of the mesh's own size")
        return hardware
    return local_cluster(devices, cache_dir or default_cache_dir())


def devices_of(mesh: jax.sharding.Mesh | Sequence[jax.Device]) -> list[jax.Device]:
    """The devices of a mesh, in its order."""
    return list(mesh.devices.flat) if isinstance(mesh, jax.sharding.Mesh) else list(mesh)


def default_cache_dir() -> Path:
    """`~/.cache/planner`."""
    return Path.home() / ".cache" / "planner"


def _quiet(_: str) -> None: ...
