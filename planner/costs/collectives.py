"""Time of a collective over axes of a logical mesh, alpha-beta on rings.

Every function counts `size_bytes` the same way: the bytes of the tensor *unsharded along `axes`* (and still sharded
along the mesh's other axes). That is the result of an all-gather, the input and result of an all-reduce, the input of a
reduce-scatter, and n times the local buffer of an all-to-all over n devices. A permute alone counts the local buffer,
which is what each device sends.

A ring over n devices moves (n-1)/n of that per direction in n-1 steps (Thakur, Rabenseifner, Gropp 2005; the same
counts as NCCL's documentation of bus bandwidth). Several axes are combined hierarchically, the fastest carrying most.

In: bytes, axes, `LogicalMesh`. Out: seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from planner.core.hardware import Link, LogicalMesh

ALL_REDUCE = "all-reduce"
ALL_GATHER = "all-gather"
REDUCE_SCATTER = "reduce-scatter"
ALL_TO_ALL = "all-to-all"
PERMUTE = "collective-permute"
KINDS = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE)
"""The kinds of collectives, spelled as in XLA's HLO."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A time that is linear in bytes: `fixed_s + per_byte_s * size_bytes`."""

    fixed_s: float = 0.0
    per_byte_s: float = 0.0

    def __add__(self, other: "Linear") -> "Linear":
        return Linear(self.fixed_s + other.fixed_s, self.per_byte_s + other.per_byte_s)

    def at(self, size_bytes: float) -> float:
        """Seconds for that many bytes."""
        return self.fixed_s + self.per_byte_s * size_bytes

    def of_share(self, share: float) -> "Linear":
        """The same operation on `share` of the bytes."""
        return Linear(self.fixed_s, self.per_byte_s * share)


def all_reduce_s(size_bytes: float, axes: tuple[int, ...], mesh: LogicalMesh) -> float:
    """Seconds to combine a buffer of `size_bytes` held by every device along `axes`, result on all of them."""
    return collective(ALL_REDUCE, axes, mesh).at(size_bytes)


def all_gather_s(size_bytes: float, axes: tuple[int, ...], mesh: LogicalMesh) -> float:
    """Seconds to give every device along `axes` the whole of a tensor of `size_bytes` sharded along them."""
    return collective(ALL_GATHER, axes, mesh).at(size_bytes)


def reduce_scatter_s(size_bytes: float, axes: tuple[int, ...], mesh: LogicalMesh) -> float:
    """Seconds to combine buffers of `size_bytes` and leave each device along `axes` its shard of the result."""
    return collective(REDUCE_SCATTER, axes, mesh).at(size_bytes)


def all_to_all_s(size_bytes: float, axes: tuple[int, ...], mesh: LogicalMesh) -> float:
    """Seconds to move `axes` from one dimension to another, of a tensor of `size_bytes` sharded along them."""
    return collective(ALL_TO_ALL, axes, mesh).at(size_bytes)


def permute_s(size_bytes: float, axes: tuple[int, ...], mesh: LogicalMesh) -> float:
    """Seconds for every device along `axes` to send a buffer of `size_bytes` to another."""
    return collective(PERMUTE, axes, mesh).at(size_bytes)


def send_s(size_bytes: float, link: Link) -> float:
    """Seconds to send a buffer over one link."""
    return link.latency_s + size_bytes / link.bandwidth_bytes_per_s


@lru_cache(maxsize=65536)
def collective(kind: str, axes: tuple[int, ...], mesh: LogicalMesh) -> Linear:
    """The time of a collective as a function of its bytes; zero over no axes, or axes of size one.

    Raises:
      ValueError: for a kind that is not in `KINDS`.
    """
    if kind not in _FORMULAS:
        raise ValueError(f"unknown collective {kind!r}; known: {', '.join(KINDS)}")
    if kind == REDUCE_SCATTER and mesh.reduce_scatter_as_all_reduce:
        kind = ALL_REDUCE
    fastest_first = sorted((a for a in axes if mesh.shape[a] > 1),
                           key=lambda a: (-mesh.links[a].bandwidth_bytes_per_s, -a))
    return _FORMULAS[kind](tuple((mesh.shape[a], mesh.links[a]) for a in fastest_first)) if fastest_first else Linear()


_Rings = tuple[tuple[int, Link], ...]
"""(devices, link) of each axis, fastest first."""


def _gather(rings: _Rings) -> Linear:
    """n-1 ring steps per axis; the fastest axis handles the whole tensor, each slower one a shard of it."""
    total, share = Linear(), 1.0
    for n, link in rings:
        total += Linear((n - 1) * link.latency_s, share * (n - 1) / n / link.bandwidth_bytes_per_s)
        share /= n
    return total


def _reduce(rings: _Rings) -> Linear:
    """Reduce-scatter inwards, all-gather outwards: the gather twice."""
    return _gather(rings) + _gather(rings)


def _exchange(rings: _Rings) -> Linear:
    """Per axis, a device sends (n-1)/n of its shard."""
    devices = prod(n for n, _ in rings)
    total = Linear()
    for n, link in rings:
        total += Linear((n - 1) * link.latency_s, (n - 1) / n / devices / link.bandwidth_bytes_per_s)
    return total


def _shift(rings: _Rings) -> Linear:
    """One message, over the slowest link."""
    return Linear(max(link.latency_s for _, link in rings), 1 / min(link.bandwidth_bytes_per_s for _, link in rings))


_FORMULAS: dict[str, Callable[[_Rings], Linear]] = {
    ALL_REDUCE: _reduce, ALL_GATHER: _gather, REDUCE_SCATTER: _gather, ALL_TO_ALL: _exchange, PERMUTE: _shift}
