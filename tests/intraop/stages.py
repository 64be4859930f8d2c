"""A stage that memory limits, small enough to enumerate: three layers of a transformer on two devices."""

from dataclasses import replace
from functools import cache

from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.intraop.compose import SliceTable
from planner.intraop.refine import Stage
from planner.intraop.slice_choice import SliceChoice, table_choice
from planner.mesh_tables import mesh_table
from planner.prepared import Prepared, prepare
from planner.spaces import MeshSpace
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, transformer

MICROBATCHES = 2


@cache
def tight_table(layers: int = 3, memory_bytes: int = 1 << 20) -> tuple[SliceTable, Prepared]:
    """On devices with so little memory that its price matters."""
    prepared = prepare(program(transformer(layers), MICROBATCHES), DGX.device)
    cluster: Cluster = replace(DGX, device=replace(DGX.device, memory_bytes=memory_bytes))
    return mesh_table(prepared, MeshSpace(mesh(2), ("x",), (AxisUse.ANY,)), cluster, Pins()), prepared


def stage(share: float, first: int = 0, last: int = 2, in_flight: int = 2, layers: int = 3) -> Stage:
    """Layers [first..last] with a limit between the least they can do with (0) and what the fastest variant takes."""
    table, prepared = tight_table(layers)
    need = table.useful.of(table.of(first, last)).memory_bytes(in_flight)
    fastest = need[0]
    limit = float(need.min() + share * (fastest - need.min()))
    return Stage(prepared.program.micro, table, first, last, in_flight, MICROBATCHES, limit)


def fastest_variant(of: Stage) -> SliceChoice:
    """The table's fastest variant within the stage's limit."""
    own = of.table.useful.of(of.table.of(of.first, of.last))
    return table_choice(of.table, of.first, of.last, int(own.variant[own.fitting(of.in_flight, of.limit_bytes) or 0]))
