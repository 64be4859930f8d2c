"""Arrays on their way from one stage to another: the one place that knows how bytes travel.

In: arrays, how they lie on the sender's mesh (which every process knows, whether it holds a part of them or not) and
how the receiver wants them. Out: the arrays there. Within a process that is `Routes`; between processes a program over
the devices of both, `Carry`. All processes must ask for the same transfers in the same order, as drivers do that go
through all tasks of a step, their own and those of others.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.processes.in_turn import in_turn
from planner.runtime.carry import Carry
from planner.runtime.routes import Routes
from planner.runtime.stage_program import has_part, mesh_of, without_numbers


class Transfers:
    """What carries the arrays of a run over `meshes`, one mesh per stage. `one_process`: all devices are of one."""

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        devices = list(dict.fromkeys(d for mesh in meshes for d in mesh.devices.flat))
        self.one_process = len({d.process_index for d in devices}) == 1
        self._everyone = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec())
        self._routes = Routes()
        self._between: dict[Any, Callable[[Sequence[Any]], list[Any]]] = {}

    def place(self, arrays: Sequence[Any], wanted: Sequence[NamedSharding]) -> list[Any]:
        """Arrays that every process has on its host, or that lie on all devices, to where they are wanted."""
        if self.one_process:
            on_devices = all(isinstance(x, jax.Array) for x in arrays)
            return self._routes.send(arrays, wanted) if on_devices else jax.device_put(list(arrays), list(wanted))
        return [self._placed(x, where) for x, where in zip(arrays, wanted, strict=True)]

    def send(self, arrays: Sequence[Any], lie: Sequence[NamedSharding], wanted: Sequence[NamedSharding]) -> list[Any]:
        """Arrays of stages to another; does not wait for them.

        Args:
          arrays: on the devices of a stage each.
          lie: how they lie there.
          wanted: how they shall lie; all on the devices of one stage.
        """
        assert len(arrays) == len(lie) == len(wanted)
        if self.one_process:
            return self._routes.send(arrays, wanted)
        found: list[Any] = []
        for _, group in groupby(zip(arrays, lie, wanted, strict=True), lambda x: tuple(mesh_of(x[1]).devices.flat)):
            found += self._sent(*(list(part) for part in zip(*group, strict=True)))
        return found

    def everywhere(self, arrays: Sequence[Any], lie: Sequence[NamedSharding]) -> list[Any]:
        """Arrays of one stage, whole in every process."""
        return list(arrays) if self.one_process else self.send(arrays, lie, [self._everyone] * len(arrays))

    def _sent(self, arrays: Sequence[Any], lie: Sequence[NamedSharding], wanted: Sequence[NamedSharding]) -> list[Any]:
        """Arrays of one stage to another, of which other processes may have a part or all."""
        source, target = mesh_of(lie[0]), mesh_of(wanted[0])
        if not has_part(source) and not has_part(target):
            return [without_numbers(x.shape, x.dtype, w) for x, w in zip(arrays, wanted, strict=True)]
        if len({d.process_index for d in (*source.devices.flat, *target.devices.flat)}) == 1:
            return self._routes.send(arrays, wanted)
        key = tuple((x.shape, x.dtype, s, w) for x, s, w in zip(arrays, lie, wanted, strict=True))
        if key not in self._between:
            among_themselves = tuple(source.devices.flat) == tuple(target.devices.flat)
            self._between[key] = _relaid(wanted) if among_themselves else Carry(arrays, lie, wanted)
        return self._between[key](arrays)

    def _placed(self, array: Any, wanted: NamedSharding) -> Any:
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return spread(array, wanted)
        if not array.is_fully_replicated:
            assert isinstance(array.sharding, NamedSharding)
            mesh = mesh_of(array.sharding)
            array = in_turn(jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec())), mesh)(array)
        own = {shard.device: shard.data for shard in array.addressable_shards}
        parts = [own[device][index] for device, index in wanted.devices_indices_map(array.shape).items()
                 if device in own]
        return jax.make_array_from_single_device_arrays(array.shape, wanted, parts, dtype=array.dtype)


def _relaid(wanted: Sequence[NamedSharding]) -> Callable[[Sequence[Any]], list[Any]]:
    """Resharding within a stage that several processes share."""
    program = in_turn(jax.jit(lambda *arrays: arrays, out_shardings=tuple(wanted)), mesh_of(wanted[0]))

    def relaid(arrays: Sequence[Any]) -> list[Any]:
        right = all(x.sharding == where for x, where in zip(arrays, wanted, strict=True))
        return list(arrays if right else program(*arrays))

    return relaid


def spread(array: Any, wanted: NamedSharding) -> jax.Array:
    """An array that every process has on its host, to where it is wanted: each process fills in its own devices, which
    share no memory with the given one or with each other."""
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = spread(jax.random.key_data(array), NamedSharding(mesh_of(wanted), PartitionSpec(*wanted.spec)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array)) if has_part(mesh_of(wanted)) else \
            without_numbers(array.shape, array.dtype, wanted)
    host, here = np.asarray(array), jax.process_index()
    parts = [jax.device_put(np.array(host[index]), device)
             for device, index in wanted.devices_indices_map(host.shape).items() if device.process_index == here]
    return jax.make_array_from_single_device_arrays(host.shape, wanted, parts, dtype=host.dtype)
