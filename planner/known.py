"""What the searches of one request have in common: programs made ready, and tables, whatever memory they may use.

A search is repeated where the memory of programs is other than what layers add up to, or where host memory is to help:
each time told of other memory, and with the same model, meshes and prices. Programs are traced and made ready once, and
a table of a mesh serves every limit: memory is priced for what devices have, and only a table that left prices out, as
all of it fits, is made again for a tighter limit.

In: a `Request`. Out: `Prepared` programs and `SliceTable`s.
"""

from collections.abc import Sequence

import numpy as np

from planner.core.hardware import Cluster
from planner.foreseen import Programs
from planner.intraop.compose import SliceTable
from planner.intraop.frontier import LayerFrontier
from planner.intraop.useful import Useful
from planner.mesh_tables import all_fit
from planner.prepared import Prepared
from planner.request import Request
from planner.spaces import MeshSpace

KEPT_BYTES = 1 << 30
"""Of tables that are kept. [chosen: those of the largest models of Alpa's evaluation; beyond, the cache on disk serves]
"""


class Known:
    """What is known so far."""

    def __init__(self, request: Request) -> None:
        """For searches of this request, which may differ in what they are `told` of memory."""
        self.programs = Programs(request.trace, request.batch_size, request.cluster.device)
        self.held = 0.0  # bytes that all devices of any plan hold for good together, at least, as far as that is known
        self._tables: dict[tuple[int, MeshSpace], SliceTable] = {}
        self._bytes = 0

    def tables(self, request: Request, prepared: Prepared, spaces: Sequence[MeshSpace]) -> dict[MeshSpace, SliceTable]:
        """The tables of meshes, as good for the request's limits as those made for them."""
        count = prepared.program.microbatches
        found = {s: self._tables[count, s] for s in spaces if (count, s) in self._tables}
        found |= self._made(request, prepared, [s for s in spaces if s not in found], request.cluster)
        short = [s for s in spaces if request.told is not None and not _serves(found[s], request, prepared, s)]
        found |= self._made(request, prepared, short, request.limits)
        return {s: found[s] for s in spaces}

    def ahead(self, request: Request, prepared: Prepared, spaces: Sequence[MeshSpace]) -> None:
        """Say what tables will probably be asked for."""
        new = [s for s in spaces if (prepared.program.microbatches, s) not in self._tables]
        request.tables.ahead(prepared, new, request.cluster, request.pins)

    def forget(self) -> None:
        """Leave out what comes from programs that were foreseen: they are other programs."""
        self.programs.forget()
        self._tables = {(n, space): t for (n, space), t in self._tables.items() if n in self.programs.traced}
        self._bytes = sum(map(_bytes, self._tables.values()))

    def _made(self, request: Request, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster
              ) -> dict[MeshSpace, SliceTable]:
        if not spaces:
            return {}
        made = dict(zip(spaces, request.tables(prepared, spaces, hardware, request.pins), strict=True))
        for space, table in made.items():
            size = _bytes(table)
            if self._bytes + size <= KEPT_BYTES:
                self._tables[prepared.program.microbatches, space] = table
                self._bytes += size
        return made


def _serves(table: SliceTable, request: Request, prepared: Prepared, space: MeshSpace) -> bool:
    """Whether a table has what the request's limits ask for: prices of memory, or no need of them."""
    usable, had = (c.kinds[space.part].device.usable_bytes for c in (request.limits, request.cluster))
    return len(table.multipliers) > 1 or usable >= had or \
        all_fit(prepared, request.cluster, request.pins, table, usable)


def _bytes(table: SliceTable) -> int:
    """Of a table's arrays, the frontiers of its layers included where they are there."""
    frontiers = {id(f): f for f in table.layers}.values() if isinstance(table.layers, tuple) else ()
    return sum(_size(of) for of in (table, table.useful, *frontiers))


def _size(of: SliceTable | Useful | LayerFrontier) -> int:
    return sum(part.nbytes for part in vars(of).values() if isinstance(part, np.ndarray))
