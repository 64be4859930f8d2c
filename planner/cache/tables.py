"""Slice tables kept from one search to the next: what took a solver seconds is read in milliseconds.

A table depends on the program, on how its layers are structured and priced (`Setting`), on the prices of memory, and on
the code; its key is a hash of them all, so that what is read is what would have been computed, bit for bit. Nothing of
the cluster around the mesh counts but what those name: a cluster that lost a node finds the tables of the smaller
meshes, as long as the prices are those of the cluster that it was.

In: a `Cache`, processes to work in. Out: `KnownTables`, a way to make the tables of a search (`mesh_tables.Tables`).
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.cache.jobs import Made
from planner.cache.keys import digest, source_digest
from planner.cache.packed import PackedError
from planner.cache.store import Cache
from planner.cache.workers import Workers
from planner.cache.written import Task, read, written
from planner.core.fingerprint import fingerprint
from planner.core.graph import Program
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.intraop.compose import SliceTable
from planner.prepared import Prepared
from planner.spaces import MeshSpace

KIND = "table"

Known = tuple[weakref.ref[Prepared], str]


@dataclass(frozen=True)
class KnownTables:
    """Makes the slice tables of meshes, or reads them.

    Attributes:
      cache: where they are kept; None: nowhere.
      version: of this package.
      was: tables of meshes that this cluster had are made as for it, as prices of memory depend on how large it was;
        None: as for the cluster that they are asked for.
      workers: what makes them.
      known: what was last asked about.
    """

    cache: Cache | None
    version: str
    was: Cluster | None = None
    workers: Workers = field(default_factory=lambda: Workers(1), compare=False)
    known: dict[str, Known] = field(default_factory=dict[str, Known], compare=False)

    def expect(self, operators: int, meshes: int) -> None:
        """See `mesh_tables.Tables`."""
        self.workers.expect(operators, meshes)

    @property
    def have_help(self) -> bool:
        """See `mesh_tables.Tables`."""
        return self.workers.are_there

    def ahead(self, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster, pins: Pins) -> None:
        """See `mesh_tables.Tables`."""
        tasks = [Task(prepared, *self._as_it_was(space, hardware), pins) for space in spaces]
        self.workers.ahead([t for t in tasks if self.cache is None or not self.cache.has(KIND, self._key(t))])

    def __call__(self, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster, pins: Pins
                 ) -> list[SliceTable]:
        """See `mesh_tables.Tables`; each is equal to what `mesh_table` gives."""
        tasks = [Task(prepared, *self._as_it_was(space, hardware), pins) for space in spaces]
        keys = [self._key(task) for task in tasks]
        found = [self._kept(key, task) for key, task in zip(keys, tasks, strict=True)]
        missing = [n for n, table in enumerate(found) if table is None]
        made = self.workers.tables([tasks[n] for n in missing])
        for n, table in zip(missing, made, strict=True):
            found[n] = self._keep(keys[n], tasks[n], table)
        return [table for table in found if table is not None]

    def _key(self, task: Task) -> str:
        return "" if self.cache is None else digest(self._of_program(task.prepared), *task.rest())

    def _kept(self, key: str, task: Task) -> SliceTable | None:
        if self.cache is None or (kept := self.cache.get(KIND, key)) is None:
            return None
        try:
            return read(kept, task)
        except PackedError as fault:
            self.cache.forget(KIND, key, str(fault))
            return None

    def _keep(self, key: str, task: Task, made: Made) -> SliceTable:
        """A table that was made, kept for next time."""
        if self.cache is not None:
            self.cache.put(KIND, key, made if isinstance(made, bytes) else written(made))
        return read(made, task) if isinstance(made, bytes) else made

    def _as_it_was(self, space: MeshSpace, hardware: Cluster) -> tuple[MeshSpace, Cluster]:
        """A mesh and the cluster that it is in, as they were before."""
        kind, had = hardware.kinds[space.part], self.was.kinds if self.was else ()
        mine = [n for n, k in enumerate(had) if k.name == kind.name]
        if self.was is None or len(mine) != 1 or len({k.name for k in had}) < len(had):
            return space, hardware
        before = had[mine[0]]
        if not hardware.parts:  # all of it was, or a part that was planned for by itself
            smaller = space.mesh.device_count < min(kind.nodes, before.nodes) * kind.devices_per_node
            return space, replace(hardware, nodes=before.nodes) if smaller else hardware
        if before.device_count < space.mesh.device_count:
            return space, hardware
        now = {k.name: k for k in hardware.parts}  # which may be told of other memory than they have
        parts = tuple(replace(now[k.name], nodes=k.nodes, devices_per_node=k.devices_per_node) if k.name in now else k
                      for k in self.was.parts)
        return replace(space, part=mine[0]), replace(self.was, parts=parts)

    def _of_program(self, prepared: Prepared) -> str:
        """A hash of the program, its layers and the code; found once for all meshes."""
        last = self.known.get("last")
        if last is None or last[0]() is not prepared:
            last = (weakref.ref(prepared), digest(
                self.version, source_digest(), np.__version__, program_digest(prepared.program), prepared.layers,
                prepared.models, prepared.index.opt_state_bytes))
            self.known["last"] = last
        return last[1]


def program_digest(program: Program) -> str:
    """A hash of a program that was traced or foreseen. The numbers in literals say nothing of costs, and of a program
    that was foreseen are those of another."""
    return fingerprint(program.kind, program.microbatches, (program.forward, program.micro), numbers=False)


