"""The costs of every slice of layers on one logical mesh, at as many prices of memory as the mesh calls for.

In: `Prepared`, a `MeshSpace`, the cluster, pins. Out: a `SliceTable`, and what bounds stages: how many, how large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from planner.core.hardware import Cluster, Overlap
from planner.core.pins import Pins
from planner.core.recomputation import Recompute
from planner.intraop.boundary import Boundary, boundary
from planner.intraop.choices import LayerModel
from planner.intraop.compose import SliceTable, slice_table
from planner.intraop.price import PricedLayer, price_layer
from planner.intraop.setting import MAX_CLASSES, Setting
from planner.intraop.solved_layer import SolvedLayer, solve_layer
from planner.intraop.variants import Multipliers
from planner.pinning import pinned_specs
from planner.prepared import Prepared, Work
from planner.program_index import ProgramIndex
from planner.solvers.elimination_code import WidthExceeded
from planner.spaces import MeshSpace

PRICE_SCALES = (0.03, 0.12, 0.25, 0.45, 0.8, 1.6, 4.0, 12.0, 60.0)
"""Prices of a byte, relative to the step's compute time per byte of capacity. [chosen: from negligible to prohibitive,
close together where the prices that bound stages best were found to be, between 0.15 and 0.9 on GPT-2.6B]"""

OPEN = (MAX_CLASSES, 4, 3, 2)
"""Dimensions open to sharding, one after the other where a layer is too entangled for more. [chosen]"""

MAX_STAGES = 64
"""Stages of a pipeline at most. [chosen: deeper pipelines spend their time in the bubble]"""


Made = TypeVar("Made")


def stage_limit(prepared: Prepared, hardware: Cluster, pins: Pins) -> int:
    """How many stages a pipeline may have at most."""
    if prepared.program.kind == "step":
        return 1
    if pins.stages is not None:
        return pins.stages
    return min(len(prepared.layers), hardware.device_count, MAX_STAGES)


def memory_prices(work: Work, hardware: Cluster, devices: int, pins: Pins, part: int = 0) -> Multipliers:
    """The memory prices that layers on a mesh of `devices` are solved at, around the step's compute time per byte of
    capacity; saved bytes also as if as many microbatches were in flight as the first of equal stages holds."""
    device = hardware.kinds[part].device
    step_s = work.microbatches * work.micro_flops / hardware.device_count / device.flops_per_s(work.dtype)
    base = max(step_s, 1e-6) / device.memory_bytes
    flights = sorted({1, min(hardware.device_count // devices, work.microbatches)}) if work.kind == "train" else [1]
    free = no_price(work, pins)
    rows = [(base * scale, k, r) for scale in PRICE_SCALES for k in flights for r in ways(work, pins)]
    return Multipliers(free.per_byte_s + tuple(r[0] for r in rows), free.in_flight + tuple(r[1] for r in rows),
                       free.recompute + tuple(r[2] for r in rows))


def no_price(work: Work, pins: Pins) -> Multipliers:
    """Memory for nothing. Nothing is recomputed then unless it is pinned."""
    return Multipliers((0.0,), (1,), ways(work, pins)[:1])


def ways(work: Work, pins: Pins) -> tuple[Recompute, ...]:
    """How layers may be recomputed."""
    if work.kind != "train":
        return (Recompute.NONE,)
    fixed = pins.recomputed
    return tuple(Recompute) if fixed is None else (fixed,)


@dataclass(frozen=True)
class PricedClass:
    """A distinct layer with the boundaries around it."""

    priced: PricedLayer
    before: Boundary
    after: Boundary


class Tables(Protocol):
    """What makes the slice tables of a search."""

    def expect(self, operators: int, meshes: int) -> None:
        """Told ahead of how much there will be to do."""
        ...

    @property
    def have_help(self) -> bool:
        """Whether somebody else makes what is told ahead."""
        ...

    def ahead(self, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster, pins: Pins) -> None:
        """Told ahead of what will probably be asked for."""
        ...

    def __call__(self, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster, pins: Pins
                 ) -> list[SliceTable]:
        """The table of each mesh."""
        ...


class OneByOne:
    """Makes each when it is asked for."""

    def expect(self, operators: int, meshes: int) -> None:
        """Nothing to make ready."""

    have_help = False

    def ahead(self, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster, pins: Pins) -> None:
        """Nobody to have it done."""

    def __call__(self, prepared: Prepared, spaces: Sequence[MeshSpace], hardware: Cluster, pins: Pins
                 ) -> list[SliceTable]:
        return [mesh_table(prepared, space, hardware, pins) for space in spaces]


def mesh_table(prepared: Prepared, space: MeshSpace, hardware: Cluster, pins: Pins) -> SliceTable:
    """Costs of all slices of layers on one logical mesh.

    A layer too entangled for exact elimination is solved again with fewer dimensions open to sharding; the table then
    is not `exact` and proves no bound. Where every slice fits at its fastest, no other memory price is tried.
    """
    usable = hardware.kinds[space.part].device.usable_bytes

    def made(classes: int) -> SliceTable:
        priced = priced_layers(prepared, space, hardware, pins, classes)
        if _held_anyway(prepared, hardware, pins, priced) <= usable:
            fastest = _table(prepared, priced, no_price(prepared.work, pins))
            if all_fit(prepared, hardware, pins, fastest, usable):
                return fastest
        return _table(prepared, priced,
                      memory_prices(prepared.work, hardware, space.mesh.device_count, pins, space.part))

    return as_open_as_possible(made)


def as_open_as_possible(made: Callable[[int], Made]) -> Made:
    """What is made of layers with so many dimensions open to sharding as exact elimination can cope with.

    Raises:
      WidthExceeded: it can't cope with the fewest.
    """
    for classes in OPEN[:-1]:
        try:
            return made(classes)
        except WidthExceeded:
            continue
    return made(OPEN[-1])


def _held_anyway(prepared: Prepared, hardware: Cluster, pins: Pins, classes: Sequence[PricedClass]) -> float:
    """Bytes that all layers in one stage hold at least, if they are recomputed as where memory has no price, with as
    many microbatches in flight as any stage may hold."""
    kinds = {"resident_bytes": 1}
    if no_price(prepared.work, pins).recompute[0] is Recompute.NONE:
        kinds["saved_bytes"] = most_in_flight(prepared, hardware, pins)
    least = [sum(times * float(costs[kind].min()) for costs in c.priced.unary for kind, times in kinds.items()
                 if kind in costs) for c in classes]
    return sum(least[c] for c in prepared.layers.classes)


def all_fit(prepared: Prepared, hardware: Cluster, pins: Pins, fastest: SliceTable, usable: float) -> bool:
    """Whether every slice, at its fastest, fits with as many microbatches in flight as any stage may hold."""
    return bool((fastest.useful.memory_bytes(most_in_flight(prepared, hardware, pins)) <= usable).all())


def most_in_flight(prepared: Prepared, hardware: Cluster, pins: Pins) -> int:
    """Microbatches that any stage may hold at most."""
    microbatches = prepared.program.microbatches
    if prepared.program.kind != "train":
        return 1
    return microbatches if pins.schedule == "gpipe" else min(stage_limit(prepared, hardware, pins), microbatches)


def setting_of(index: ProgramIndex, space: MeshSpace, hardware: Cluster, pins: Pins, classes: int) -> Setting:
    """What layers are priced under on one logical mesh."""
    program, part = index.program, hardware.kinds[space.part]
    return Setting(space.mesh, part.device, space.uses, program.microbatches, program.kind == "train",
                   pinned_specs(index, pins, space.names, space.mesh.shape), program.kind != "inference",
                   classes, part.overlap or Overlap(), apart=space.mesh.device_count < hardware.device_count)


def priced_layers(prepared: Prepared, space: MeshSpace, hardware: Cluster, pins: Pins, classes: int
                   ) -> list[PricedClass]:
    """The distinct layers, priced on one logical mesh."""
    setting = setting_of(prepared.index, space, hardware, pins, classes)
    return [priced_class(prepared.index, model, ends, setting)
            for model, ends in zip(prepared.models, prepared.layers.distinct, strict=True)]


def priced_class(index: ProgramIndex, model: LayerModel, ends: tuple[int, int], setting: Setting) -> PricedClass:
    """A layer of forward operators [first, last), priced with its boundaries."""
    before, after = (boundary(index, end, setting.mesh.shape, setting.uses, setting.pins) for end in ends)
    return PricedClass(price_layer(index, model, setting), before, after)


def _table(prepared: Prepared, classes: Sequence[PricedClass], prices: Multipliers) -> SliceTable:
    setting, layers = classes[0].priced.setting, solved_layers(prepared, classes, prices)
    table = slice_table(setting.mesh, [layers[c] for c in prepared.layers.classes], prepared.slices,
                        prices, microbatches=setting.microbatches, training=setting.training)
    return replace(table, exact=setting.max_classes == MAX_CLASSES)


def solved_layers(prepared: Prepared, classes: Sequence[PricedClass], prices: Multipliers) -> list[SolvedLayer]:
    """The distinct layers, solved at these prices of memory."""
    return [solve_layer(prepared.program.micro, c.priced, c.before, c.after, prices) for c in classes]
