"""`replan()`: a plan for what is left of a cluster, or another batch, out of what an earlier plan found out.

The program comes from the cache (or is traced again), and so do the tables of all meshes that the old cluster had as
well. Microbatches keep their size where the batch allows: then program and tables are the old ones. Searched is what a
plan with that number of microbatches pinned searches. The plan is kept too: who asks once ahead, what if a node were
lost, has the answer in a second on the day, whichever node it is.

In: a plan, and what changed. Out: `Replanned`: the new plan, and what must move.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planner.cache.keys import digest, source_digest
from planner.cache.programs import for_microbatches, keep_programs, kept_programs
from planner.cache.store import Cache, cache_of
from planner.changed_cluster import Changed, another, without_nodes
from planner.core.graph import Graph, Program
from planner.core.hardware import Cluster
from planner.core.moves import Moves
from planner.core.pins import Pins
from planner.core.plan import PlanRecord
from planner.core.plan_io import from_json, to_json
from planner.core.version import package_version
from planner.errors import BatchError, ModelError, PlanFileError, PlannerError
from planner.moving import moves
from planner.planned import Plan
from planner.whatif.pins import pins_of

if TYPE_CHECKING:
    from planner.model import Model

KIND = "plan"


@dataclass(frozen=True)
class Replanned:
    """What `replan` gives. `notes`: what was decided on the way, in words."""

    old: Plan
    plan: Plan
    moves: Moves
    notes: tuple[str, ...]


def replan(plan: Plan, *, cluster: Cluster | None = None, without: Sequence[str] = (),  # noqa: PLR0913  (all named)
           nodes: int | None = None, batch_size: int | None = None, model: "Model | None" = None,
           cache: Cache | bool = True, progress: Callable[[str], None] | None = None, **pinned: Any) -> Replanned:
    """Plan again after a change.

    Args:
      plan: the old plan.
      cluster: another cluster altogether; default: that of the plan, changed as said below.
      without: nodes and devices that are lost: `"node3"`, `"node3.gpu5"`.
      nodes: how many nodes there are afterwards.
      batch_size: another batch; default: that of the plan.
      model: the model, for a program that no cache has; models of the zoo are found by their names.
      cache: as for `planner.plan`.
      progress: called with a line of text now and then.
      pinned: fields of `Pins` that are to be other than in the old plan.

    Raises:
      MeshError: no such node, or nothing is left.
      BatchError: the batch has no microbatches of the size of the old plan's, and other sizes need the model.
      ModelError: the program is in no cache, and the model isn't given or is another one.
      MemoryLimitError, PinError: as `planner.plan`.
    """
    record, kept = plan.record, cache_of(cache)
    changed = another(cluster) if cluster is not None else without_nodes(record.cluster, without, nodes)
    if (pins_of(record).replicas or 1) > len(changed.cluster.kinds):
        changed = replace(changed, notes=(*changed.notes, "there are no replicas on as many types any more"))
        pinned = {"replicas": None, **pinned}
    if cluster is not None and (without or nodes):
        raise PlannerError("another cluster is given, and what is lost of the old one", "give one of the two")
    programs, notes = _programs(record, kept, model)
    asked = _asked(record, changed, batch_size or record.batch_size, programs, pinned)
    found = _planned(replace(asked, was=None if cluster else record.cluster), kept, progress or _quiet)
    found = replace(found, pins=record.pins if not pinned else asked.pins.describe(), rewrites=record.rewrites)
    update = next(iter(programs.values())).update
    return Replanned(plan, Plan(found), moves(record, found, update, changed.was), (*changed.notes, *notes))


@dataclass(frozen=True)
class _Asked:
    """What to plan; `was`: see `KnownTables`."""

    program: Program
    model_name: str
    batch_size: int
    cluster: Cluster
    pins: Pins
    was: Cluster | None


def _planned(asked: _Asked, cache: Cache | None, progress: Callable[[str], None]) -> PlanRecord:
    """The plan: found by an earlier call that was asked the same (as that of a lost node is, whichever it was), or
    searched for."""
    key = digest(KIND, package_version(), source_digest(without=frozenset()), asked.program.fingerprint,
                 asked.model_name, asked.batch_size, asked.cluster, asked.pins, asked.was)
    text = None if cache is None else cache.get(KIND, key)
    if cache is not None and text is not None:
        try:
            return from_json(text.decode())
        except (PlanFileError, UnicodeDecodeError) as fault:
            cache.forget(KIND, key, str(fault))
    found = _searched(asked, cache, progress)
    if cache is not None:
        cache.put(KIND, key, to_json(found, dense=True).encode())
    return found


def _searched(asked: _Asked, cache: Cache | None, progress: Callable[[str], None]) -> PlanRecord:
    from planner.cache.tables import KnownTables  # what searches is imported where something is searched
    from planner.request import Request
    from planner.would_fit import plan_or_say

    def trace(_: int, __: Graph | None) -> Program:
        return asked.program

    version = package_version()
    return plan_or_say(Request(trace, asked.model_name, asked.program.kind, asked.batch_size, asked.cluster, asked.pins,
                               version, progress=progress, tables=KnownTables(cache, version, asked.was)))


def _programs(record: PlanRecord, cache: Cache | None, model: "Model | None") -> tuple[dict[int, Program], list[str]]:
    """The programs of the plan's model that are known, by microbatches; that of the plan is among them."""
    if cache is not None and model is None:
        found = kept_programs(cache, record.fingerprint)
        if found:
            return found, []
    traced = _traced(record, model)
    if cache is not None:
        keep_programs(cache, [traced])
    where = "is not in the cache" if cache is not None else "is not looked for in a cache"
    return {traced.microbatches: traced}, [f"the program {where}: the model was traced again"]


def _traced(record: PlanRecord, model: "Model | None") -> Program:
    from planner import models
    from planner.rewriting.program import traced_with

    named = model is not None
    if model is None:
        if record.model_name not in models.names():
            raise ModelError(f"the program of {record.model_name!r} is in no cache, and it is no model of the zoo",
                             "give the model: --model path.py:function, or model=")
        model = models.build(record.model_name, batch_size=record.batch_size, dtype=record.compute_dtype,
                             inference=record.kind == "inference")
    program = traced_with(model, record.microbatches, record.rewritings)
    if program.fingerprint != record.fingerprint:
        raise ModelError(f"the plan is of another {'model' if named else 'version or size'} than {model.name!r}",
                         "give the model with the sizes and the batch that it was planned with: --model "
                         "path.py:function, or model=")
    return program


def _asked(record: PlanRecord, changed: Changed, batch_size: int, programs: Mapping[int, Program],
             pinned: Mapping[str, Any]) -> _Asked:
    """What to plan: with microbatches of the old size, or else of another size whose program is known."""
    pins = replace(pins_of(record), **{"microbatches": None, **pinned})
    if batch_size < 1:
        raise BatchError(f"a batch of {batch_size}", "give at least one sample")
    by_count: dict[int, Program] = {}
    sizes = {count: record.batch_size // count for count in (record.microbatches, *sorted(programs, reverse=True))}
    for count, rows in sizes.items():
        if batch_size % rows == 0:
            by_count.setdefault(batch_size // rows, programs[count])
    count = pins.microbatches or next(iter(by_count), 0)
    if count not in by_count:
        known = ", ".join(str(rows) for rows in sorted(set(sizes.values())))
        raise BatchError(f"a batch of {batch_size} in {pins.microbatches or 'whole'} microbatches: only programs of "
                         f"microbatches of {known} samples are known", f"use a multiple of {min(sizes.values())}, or "
                         "plan anew with `planner plan`")
    pins = replace(pins, microbatches=None if record.kind == "step" else count)
    return _Asked(for_microbatches(by_count[count], count), record.model_name, batch_size, changed.cluster, pins, None)


def _quiet(_: str) -> None: ...
