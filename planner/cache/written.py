"""Slice tables as bytes: what is kept on disk, and what one process hands to another.

Tables are written whole, and without the frontiers of their layers: those are solved again for the few meshes whose
stages are built or made sharper. (Frontiers per layer were 20 times the size, and left every slice to be composed
again.)

In: what a table was asked for, a `SliceTable`. Out: bytes; from both, the same table.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from planner.cache.packed import PackedError, pack, unpack
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.core.recomputation import Recompute
from planner.intraop.compose import SliceTable
from planner.intraop.frontier import PARTS, LayerFrontier
from planner.intraop.setting import MAX_CLASSES
from planner.intraop.useful import Useful
from planner.intraop.variants import Multipliers, slice_variants
from planner.mesh_tables import (
    memory_prices,
    mesh_table,
    most_in_flight,
    no_price,
    priced_layers,
    setting_of,
    solved_layers,
)
from planner.prepared import Prepared
from planner.spaces import MeshSpace


@dataclass(frozen=True)
class Task:
    """What a table is asked for."""

    prepared: Prepared
    space: MeshSpace
    hardware: Cluster
    pins: Pins

    def rest(self) -> tuple[object, ...]:
        """All that a table depends on but program and code."""
        prepared, hardware, pins = self.prepared, self.hardware, self.pins
        return (setting_of(prepared.index, self.space, hardware, pins, MAX_CLASSES), self.space,
                no_price(prepared.work, pins),
                memory_prices(prepared.work, hardware, self.space.mesh.device_count, pins, self.space.part),
                most_in_flight(prepared, hardware, pins), hardware.kinds[self.space.part].device.usable_bytes)

    def frontiers(self, classes: int, prices: Multipliers, decoded: Sequence[NDArray[np.bool_]]) -> list[LayerFrontier]:
        """Those of the distinct layers, solved again, decoded where they were."""
        priced = priced_layers(self.prepared, self.space, self.hardware, self.pins, classes)
        solved = solved_layers(self.prepared, priced, prices)
        return [layer.frontier(used) for layer, used in zip(solved, decoded, strict=True)]

    def table(self) -> SliceTable:
        """See `mesh_tables.mesh_table`."""
        return mesh_table(self.prepared, self.space, self.hardware, self.pins)


class Deferred(Sequence[LayerFrontier]):
    """A frontier per layer, solved when the first of them is asked for."""

    def __init__(self, classes: Sequence[int], solve: Callable[[], Sequence[LayerFrontier]]) -> None:
        self._classes, self._solve = classes, solve
        self._found: Sequence[LayerFrontier] | None = None

    def __len__(self) -> int:
        return len(self._classes)

    @overload
    def __getitem__(self, index: int) -> LayerFrontier: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerFrontier]: ...
    def __getitem__(self, index: int | slice) -> LayerFrontier | Sequence[LayerFrontier]:
        if self._found is None:
            self._found = self._solve()
        found = self._found
        return [found[c] for c in self._classes[index]] if isinstance(index, slice) else found[self._classes[index]]

    def __iter__(self) -> Iterator[LayerFrontier]:
        return iter(self[:])


def written(table: SliceTable) -> bytes:
    """All of a table that is not in its task."""
    header: dict[str, Any] = {"classes": table.layers[0].layer.setting.max_classes, "exact": table.exact,
              "per_byte_s": [p.hex() for p in table.multipliers.per_byte_s],
              "in_flight": list(table.multipliers.in_flight), "recompute": list(map(str, table.multipliers.recompute))}
    entering, useful = table.entering_bytes, table.useful
    frontiers = list({id(f): f for f in table.layers}.values())
    masks = {f"decoded_{n}": np.packbits(f.decoded) for n, f in enumerate(frontiers) if f.decoded is not None}
    header["frontiers"] = [list(f.priced.shape) for f in frontiers]
    return pack(header, {**masks,
        "bounds": table.bounds, "parts": useful.parts, "working_bytes": useful.working_bytes,
        "variant": useful.variant, "start": useful.start,
        "entering_bytes": np.concatenate(entering), "entering_states": np.array([len(e) for e in entering]),
        "least_forward_s": np.array(table.least_forward_s),
        "least_working_bytes": np.array(table.least_working_bytes)})


def read(content: bytes, task: Task) -> SliceTable:
    """The table that was written for the same task.

    Raises:
      PackedError: it is not what a table is written as.
    """
    header, arrays = unpack(content)
    try:
        prices = Multipliers(tuple(map(float.fromhex, header["per_byte_s"])), tuple(header["in_flight"]),
                             tuple(map(Recompute, header["recompute"])))
        classes, exact = int(header["classes"]), bool(header["exact"])
        variants, slices, layers = slice_variants(prices), task.prepared.slices, task.prepared.layers.classes
        count = (int(arrays["start"][-1]),)
        _check(arrays, {"bounds": (len(slices), len(variants.bounds)), "start": (len(slices) + 1,), "variant": count,
                        "parts": (*count, len(PARTS)), "working_bytes": count, "least_forward_s": (len(layers),),
                        "least_working_bytes": (len(layers),), "entering_states": (len(layers),)})
        kept = enumerate(cast("list[list[int]]", header["frontiers"]))
        decoded = [np.unpackbits(arrays[f"decoded_{n}"], count=prod(of)).astype(bool).reshape(of) for n, of in kept]
        ends = np.cumsum(arrays["entering_states"])
        return SliceTable(
            task.space.mesh, task.prepared.program.microbatches, prices, variants,
            Deferred(layers, lambda: task.frontiers(classes, prices, decoded)), slices, arrays["bounds"],
            Useful(arrays["start"], arrays["variant"], arrays["parts"], arrays["working_bytes"]),
            tuple(np.split(arrays["entering_bytes"], ends[:-1])),
            tuple(cast("list[float]", arrays["least_forward_s"].tolist())),
            tuple(cast("list[float]", arrays["least_working_bytes"].tolist())), exact)
    except (KeyError, TypeError, ValueError) as fault:
        raise PackedError(f"no slice table: {fault}") from fault


def _check(arrays: dict[str, NDArray[Any]], shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise PackedError(f"{name} is {arrays[name].shape}, not {shape}")
