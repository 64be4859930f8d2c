"""Ways of arrays between devices of one process that the host never waits on, and that cost nothing where an array lies
right already.

`jax.device_put` copies shards from device to device as long as each device wants a shard that some device has; else it
fetches the whole array to the host and waits for it (jax 0.10 and 0.11, `shard_sharded_device_array_slow_path`). There
a program of the sender's or the receiver's devices lays the array out anew: on the sender's where both are as many, so
that as little travels as is wanted; else the whole array travels.

In: arrays, shardings wanted. Out: the arrays there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from planner.processes.in_turn import in_turn


@dataclass(frozen=True)
class Route:
    """How an array comes where it is wanted.

    Attributes:
      before: sharding that the sender's devices lay it out in; None: as it lies.
      copied: sharding that it is copied to; None: it is there.
      after: sharding that the receiver's devices lay it out in at last; None: as it came.
    """

    before: NamedSharding | None = None
    copied: Sharding | None = None
    after: NamedSharding | None = None


class Routes:
    """Sends arrays; remembers their ways and the programs."""

    def __init__(self) -> None:
        self._known: dict[tuple[Sharding, NamedSharding, tuple[int, ...]], Route] = {}
        self._programs: dict[tuple[NamedSharding, ...], Any] = {}

    def send(self, arrays: Sequence[Any], wanted: Sequence[NamedSharding]) -> list[Any]:
        """Arrays to where they are wanted; does not wait for them."""
        found, routes = list(arrays), {}
        for n, (x, where) in enumerate(zip(arrays, wanted, strict=True)):
            lies = x.sharding
            if lies is not where and lies != where:
                routes[n] = self._route(lies, where, x.shape)
        if routes:
            self._laid_out(found, {n: r.before for n, r in routes.items() if r.before is not None})
            copied = {n: r.copied for n, r in routes.items() if r.copied is not None}
            for n, x in zip(copied, jax.device_put([found[n] for n in copied], list(copied.values())), strict=True):
                found[n] = x
            self._laid_out(found, {n: r.after for n, r in routes.items() if r.after is not None})
        return found

    def _laid_out(self, found: list[Any], wanted: dict[int, NamedSharding]) -> None:
        """Lay some of the arrays out anew, on the devices where they are: one program for each set of devices."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for n, where in wanted.items():
            groups.setdefault(_devices(where), []).append(n)
        for places in groups.values():
            key = tuple(wanted[n] for n in places)
            if key not in self._programs:
                mesh = key[0].mesh
                assert isinstance(mesh, Mesh)
                self._programs[key] = in_turn(jax.jit(_same, out_shardings=key), mesh)
            for n, x in zip(places, self._programs[key](*(found[n] for n in places)), strict=True):
                found[n] = x

    def _route(self, lies: Sharding, wanted: NamedSharding, shape: tuple[int, ...]) -> Route:
        key = (lies, wanted, shape)
        if key not in self._known:
            self._known[key] = route(lies, wanted, shape)
        return self._known[key]


def route(lies: Sharding, wanted: NamedSharding, shape: tuple[int, ...]) -> Route:
    """How an array of that shape comes from one sharding to another."""
    source, target = tuple(lies.devices_indices_map(shape)), _devices(wanted)
    if lies.memory_kind != wanted.memory_kind or len(source) == 1 or _can_be_copied(lies, wanted, shape):
        return Route(copied=wanted)  # what lies on one device JAX slices there
    if source == target:
        return Route(after=wanted)
    if len(source) == len(target):
        assert isinstance(wanted.mesh, Mesh)
        mirrored = Mesh(np.array(source).reshape(wanted.mesh.devices.shape), wanted.mesh.axis_names)
        return Route(before=NamedSharding(mirrored, wanted.spec, memory_kind=wanted.memory_kind), copied=wanted)
    whole = NamedSharding(Mesh(np.array(source), ("device",)), PartitionSpec(), memory_kind=wanted.memory_kind)
    there = NamedSharding(wanted.mesh, PartitionSpec(), memory_kind=wanted.memory_kind)
    return Route(None if lies.is_fully_replicated else whole, there, wanted)


def _can_be_copied(lies: Sharding, wanted: NamedSharding, shape: tuple[int, ...]) -> bool:
    """Whether each device wants a shard that some device has."""
    have = {_key(index) for index in lies.devices_indices_map(shape).values()}
    return all(_key(index) in have for index in wanted.devices_indices_map(shape).values())


def _key(index: Any) -> tuple[tuple[int | None, int | None, int | None], ...]:
    return tuple((s.start, s.stop, s.step) for s in index)


def _devices(sharding: NamedSharding) -> tuple[Any, ...]:
    """Its devices, in their order."""
    assert isinstance(sharding.mesh, Mesh)
    return tuple(sharding.mesh.devices.flat)


def _same(*arrays: Any) -> tuple[Any, ...]:
    return arrays
