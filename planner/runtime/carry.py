"""Programs that carry arrays from some devices to others, of other processes too, over the devices of both.

Every device that sends or receives takes part in one SPMD program, to which senders bring their shards and receivers
zeros. Two meshes of as many devices: each device permutes its shard to its partner, and the receivers reshard among
themselves. Meshes of other sizes, or that share devices: all shards are gathered on all of them, and each receiver
keeps what it wants, which moves more than it must.
The transport is the backend's own: NCCL, ICI, gloo.

In: shardings of both sides. Out: `Carry`, arrays -> arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.processes.in_turn import in_turn
from planner.runtime.stage_program import has_part, mesh_of, without_numbers
from planner.trace.dtypes import key_implementation

_AXIS = "device"


@dataclass(frozen=True)
class End:
    """What arrives: shape and dtype, and how it shall lie."""

    shape: tuple[int, ...]
    dtype: Any
    lies: NamedSharding


class Carry:
    """Carries arrays of given shapes and dtypes; called in every process that sends or receives, in the same order.

    Args:
      arrays: what tells shapes and dtypes.
      lie: how they lie, all on the same devices.
      wanted: how they shall lie, all on the same devices.
    """

    def __init__(self, arrays: Sequence[Any], lie: Sequence[NamedSharding], wanted: Sequence[NamedSharding]) -> None:
        source, target = list(mesh_of(lie[0]).devices.flat), list(mesh_of(wanted[0]).devices.flat)
        self._ends = [End(tuple(x.shape), x.dtype, w) for x, w in zip(arrays, wanted, strict=True)]
        self._plain = all(x.ndim and not _is_key(x.dtype) for x in arrays)
        data = [_data(x) for x in arrays]
        self._shapes, self._dtypes = [shape for shape, _ in data], [dtype for _, dtype in data]
        self._lie, self._wanted = ([_padded(s, len(shape)) for s, shape in zip(side, self._shapes, strict=True)]
                                   for side in (lie, wanted))
        union = list(dict.fromkeys((*source, *target)))
        self._mesh = Mesh(np.array(union), (_AXIS,))
        self._paired = len(source) == len(target) and len(union) == 2 * len(source)
        paired = [_on(mesh_of(w), s) for s, w in zip(self._lie, self._wanted, strict=True)] if self._paired else None
        self._arrives = paired or self._wanted
        here = jax.process_index()
        self._union_here = [d for d in union if d.process_index == here]
        self._target_here = {d for d in target if d.process_index == here}
        self._has_source = has_part(mesh_of(lie[0]))
        self._zeros: dict[tuple[Any, int], Any] = {}
        self._leave = in_turn(jax.jit(lambda *xs: tuple(_as_data(x) for x in xs), out_shardings=tuple(self._lie)),
                              mesh_of(lie[0]))
        self._settle = in_turn(jax.jit(
            lambda *xs: tuple(_from_data(x, end) for x, end in zip(xs, self._ends, strict=True)),
            out_shardings=tuple(wanted)), mesh_of(wanted[0]))
        body = self._permuted if self._paired else partial(self._gathered, source, target)
        spec = tuple(PartitionSpec(_AXIS) for _ in arrays)
        self._program = in_turn(jax.jit(jax.shard_map(body, mesh=self._mesh, in_specs=spec, out_specs=spec,
                                                      check_vma=False)), self._mesh)

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """The arrays as they are wanted; without numbers in a process that only sends."""
        if self._has_source and not (self._plain and _lie_so(arrays, self._lie)):
            arrays = self._leave(*arrays)
        carried = self._program(*(self._brought(n, x) for n, x in enumerate(arrays)))
        if not self._target_here:
            return [without_numbers(end.shape, end.dtype, end.lies) for end in self._ends]
        arrived = [self._assembled(n, x) for n, x in enumerate(carried)]
        return arrived if self._plain and _lie_so(arrived, self._wanted) else list(self._settle(*arrived))

    def _brought(self, n: int, array: Any) -> Any:
        """Shards of the senders and zeros of the others, as one array over all of them."""
        shards = {s.device: s.data for s in array.addressable_shards} if self._has_source else {}
        shape = self._lie[n].shard_shape(self._shapes[n])
        parts = [shards[d] if d in shards else self._zero(n, d, shape) for d in self._union_here]
        whole = (self._mesh.size * shape[0], *shape[1:])
        return jax.make_array_from_single_device_arrays(whole, NamedSharding(self._mesh, PartitionSpec(_AXIS)), parts,
                                                        dtype=self._dtypes[n])

    def _zero(self, n: int, device: Any, shape: tuple[int, ...]) -> Any:
        if (device, n) not in self._zeros:
            self._zeros[device, n] = jax.device_put(np.zeros(shape, self._dtypes[n]), device)
        return self._zeros[device, n]

    def _assembled(self, n: int, carried: Any) -> Any:
        mine = {s.device: s.data for s in carried.addressable_shards if s.device in self._target_here}
        where = self._arrives[n]
        return jax.make_array_from_single_device_arrays(
            self._shapes[n], where, [mine[d] for d in mesh_of(where).devices.flat if d in mine], dtype=self._dtypes[n])

    def _permuted(self, *shards: Any) -> tuple[Any, ...]:
        half = self._mesh.size // 2
        return tuple(jax.lax.ppermute(x, _AXIS, [(n, half + n) for n in range(half)]) for x in shards)

    def _gathered(self, source: Sequence[Any], target: Sequence[Any], *shards: Any) -> tuple[Any, ...]:
        return tuple(self._kept(n, jax.lax.all_gather(x, _AXIS)[:len(source)], source, target)
                     for n, x in enumerate(shards))

    def _kept(self, n: int, pieces: Any, source: Sequence[Any], target: Sequence[Any]) -> Any:
        """What a receiver wants of an array, all of whose shards it has: `[senders, ...]` -> its shard."""
        shape, places = self._shapes[n], self._lie[n].devices_indices_map(self._shapes[n])
        whole, seen = jnp.zeros(shape, self._dtypes[n]), set[tuple[int, ...]]()
        for piece, device in zip(pieces, source, strict=True):
            start = _start(places[device])
            if start not in seen:
                whole = jax.lax.dynamic_update_slice(whole, piece, start)
            seen.add(start)
        wants = self._wanted[n].devices_indices_map(shape)
        starts = np.zeros((self._mesh.size, len(shape)), np.int32)
        devices = list(self._mesh.devices.flat)
        for device in target:
            starts[devices.index(device)] = _start(wants[device])
        mine = jnp.asarray(starts)[jax.lax.axis_index(_AXIS)]
        return jax.lax.dynamic_slice(whole, [mine[d] for d in range(len(shape))], self._wanted[n].shard_shape(shape))


def _start(index: Sequence[slice]) -> tuple[int, ...]:
    return tuple(part.start or 0 for part in index)


def _on(mesh: Mesh, like: NamedSharding) -> NamedSharding:
    """The same sharding over the devices of another mesh."""
    model = mesh_of(like)
    devices = mesh.devices.reshape(model.devices.shape)
    return NamedSharding(Mesh(devices, model.axis_names, axis_types=model.axis_types), like.spec)


def _padded(like: NamedSharding, rank: int) -> NamedSharding:
    """The sharding of an array of that rank, whose last dimensions a key or a scalar did not have."""
    return NamedSharding(like.mesh, PartitionSpec(*like.spec, *(None,) * (rank - len(like.spec))))


def _lie_so(arrays: Sequence[Any], wanted: Sequence[NamedSharding]) -> bool:
    return all(x.sharding.is_equivalent_to(w, x.ndim) for x, w in zip(arrays, wanted, strict=True))


def _is_key(dtype: Any) -> bool:
    return jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)


def _data(array: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of what travels for an array."""
    made = jax.eval_shape(_as_data, jax.ShapeDtypeStruct(array.shape, array.dtype))
    return tuple(made.shape), made.dtype


def _as_data(array: Any) -> Any:
    """What travels: the data of random keys, scalars as one element."""
    array = jax.random.key_data(array) if _is_key(array.dtype) else array
    return array if array.ndim else array[None]


def _from_data(array: Any, end: "End") -> Any:
    if not _is_key(end.dtype):
        return array.reshape(end.shape)
    return jax.random.wrap_key_data(array, impl=key_implementation(str(end.dtype)))
