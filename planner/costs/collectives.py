"""Time of a collective over axes of a logical mesh, as a function of its bytes: the fastest of straight lines.

Every function counts `size_bytes` the same way: the bytes of the tensor *unsharded along `axes`* (and still sharded
along the mesh's other axes). That is the result of an all-gather or broadcast, the input and result of an all-reduce,
the input of a reduce-scatter, and n times the local buffer of an all-to-all over n devices. A permute alone counts the
local buffer, which is what each device sends.

A ring over n devices moves (n-1)/n of that per direction in n-1 steps (Thakur, Rabenseifner, Gropp 2005; the same
counts as NCCL's documentation of bus bandwidth). Where a link lists its library's protocols, a collective takes the
fastest for its size, as NCCL does: those of low latency for few bytes, those of full bandwidth for many, and rings or
trees for all-reduces (`costs/protocols.py`). Several axes are combined hierarchically, the fastest carrying most; where
the library has protocols, in one ring or tree through all of them, as NCCL does.

In: bytes, axes, `LogicalMesh`. Out: seconds, or a `Curve`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import prod
from types import MappingProxyType

from planner.core.hardware import Link, LogicalMesh
from planner.costs.curve import Curve
from planner.costs.protocols import over_protocols

ALL_REDUCE = "all-reduce"
ALL_GATHER = "all-gather"
REDUCE_SCATTER = "reduce-scatter"
ALL_TO_ALL = "all-to-all"
PERMUTE = "collective-permute"
BROADCAST = "collective-broadcast"
KINDS = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE, BROADCAST)
"""The kinds of collectives, spelled as in XLA's HLO."""


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


def broadcast_s(size_bytes: float, axes: tuple[int, ...], mesh: LogicalMesh) -> float:
    """Seconds to give every device along `axes` a buffer of `size_bytes` that one of them has."""
    return collective(BROADCAST, axes, mesh).at(size_bytes)


def sent_bytes(kind: str, size_bytes: float, devices: int) -> float:
    """Bytes that each of the devices sends in a collective of `size_bytes`, by rings: what tells one kind from another.

    An all-reduce sends what a reduce-scatter and an all-gather do, which are counted by the same `size_bytes`.
    """
    if kind in (PERMUTE, BROADCAST):
        return size_bytes
    once = (devices - 1) / devices * size_bytes
    return 2 * once if kind == ALL_REDUCE else once / devices if kind == ALL_TO_ALL else once


def send_s(size_bytes: float, link: Link) -> float:
    """Seconds to send a buffer over one link."""
    return link.latency_s + size_bytes / link.bandwidth_bytes_per_s


@lru_cache(maxsize=65536)
def collective(kind: str, axes: tuple[int, ...], mesh: LogicalMesh) -> Curve:
    """The time of a collective as a function of its bytes; zero over no axes, or axes of size one.

    Raises:
      ValueError: for a kind that is not in `KINDS`.
    """
    if kind not in _FORMULAS:
        raise ValueError(f"unknown collective {kind!r}; known: {', '.join(KINDS)}")
    if kind == REDUCE_SCATTER and mesh.reduce_scatter_as_all_reduce:
        kind = ALL_REDUCE
    rings = _rings(axes, mesh)
    if not rings:
        return Curve()
    flat = len(rings) > 1 and kind in _IN_ONE_RING and all(link.protocols for _, link in rings)
    found = _in_one_ring(kind, rings) if flat else _FORMULAS[kind](rings)
    return found.without_start() if mesh.merging and kind == ALL_REDUCE else found


def when_merged(mesh: LogicalMesh) -> LogicalMesh:
    """The mesh as an all-reduce meets it that waits for no other: merging, where the compiler merges such."""
    return replace(mesh, merging=True) if mesh.merges_all_reduces else mesh


_Rings = tuple[tuple[int, Link], ...]
"""(devices, link) of each axis, fastest first."""


def _rings(axes: tuple[int, ...], mesh: LogicalMesh) -> _Rings:
    """Axes that share a measured link are one group, as they were when it was measured."""
    fastest_first = sorted((a for a in axes if mesh.shape[a] > 1),
                           key=lambda a: (-mesh.links[a].bandwidth_bytes_per_s, -a))
    rings: list[tuple[int, Link]] = []
    for axis in fastest_first:
        n, link = mesh.shape[axis], mesh.links[axis]
        if rings and link.measured and rings[-1][1] == link:
            rings[-1] = (rings[-1][0] * n, link)
        else:
            rings.append((n, link))
    return tuple(rings)


def _gather(rings: _Rings, kind: str = ALL_GATHER) -> Curve:
    """The fastest axis handles the whole tensor, each slower one a shard of it."""
    total, share = Curve(), 1.0
    for n, link in rings:
        total += _over_link(kind, n, link).of_share(share)
        share /= n
    return total


def _scatter(rings: _Rings) -> Curve:
    return _gather(rings, REDUCE_SCATTER)


def _reduce(rings: _Rings) -> Curve:
    """Reduce-scatter over the fast axes, all-reduce of the shard over the slowest, all-gather back."""
    *fast, (n, link) = rings
    slowest = _over_link(ALL_REDUCE, n, link).of_share(1 / prod(size for size, _ in fast))
    return _scatter(tuple(fast)) + slowest + _gather(tuple(fast))


def _exchange(rings: _Rings) -> Curve:
    """Axis after axis, each on the whole local buffer."""
    devices, total = prod(n for n, _ in rings), Curve()
    for n, link in rings:
        total += _over_link(ALL_TO_ALL, n, link).of_share(n / devices)
    return total


def _shift(rings: _Rings) -> Curve:
    """One message, over the slowest link."""
    return max((_over_link(PERMUTE, n, link) for n, link in rings), key=lambda time: time.slope_s_per_byte)


def _spread(rings: _Rings) -> Curve:
    """Axis after axis, the whole tensor each time."""
    return sum((_over_link(BROADCAST, n, link) for n, link in rings), Curve())


def _in_one_ring(kind: str, rings: _Rings) -> Curve:
    """One ring (or tree) through all devices: it leaves the group of the fastest axes at every `inner`-th step, where
    every device of that group has its part of the slower link."""
    inner, (_, fast), (_, slow) = prod(n for n, _ in rings[:-1]), rings[0], rings[-1]
    rate = min(fast.bandwidth_bytes_per_s, slow.bandwidth_bytes_per_s * inner)
    known = {p.name + p.algorithm: p for p in fast.protocols}
    ways = [replace(p, step_s=(p.step_s + (inner - 1) * known[p.name + p.algorithm].step_s) / inner)
            for p in slow.protocols if p.name + p.algorithm in known]
    return over_protocols(kind, prod(n for n, _ in rings), Link(rate, slow.latency_s, protocols=tuple(ways)))


def _over_link(kind: str, n: int, link: Link) -> Curve:
    """A collective of n devices over one link: as measured where it was, by the link's protocols where it has them,
    else n-1 ring steps (2n-2 for all-reduce)."""
    if points := sorted((m.devices, m.fixed_s, m.per_byte_s) for m in link.measured if m.kind == kind):
        return Curve.line(_interpolate([(d, fixed) for d, fixed, _ in points], n),
                          _interpolate([(d, per_byte) for d, _, per_byte in points], n))
    if link.protocols:
        return over_protocols(kind, n, link)
    latency, byte = link.latency_s, 1 / link.bandwidth_bytes_per_s
    if kind == PERMUTE:
        return Curve.line(latency, byte)
    if kind == BROADCAST:
        return Curve.line((n - 1) * latency, byte)
    ring = Curve.line((n - 1) * latency, (n - 1) / n * byte)
    return {ALL_REDUCE: ring + ring, ALL_TO_ALL: ring.of_share(1 / n)}.get(kind, ring)


def _interpolate(points: list[tuple[int, float]], n: int) -> float:
    """Linear between measured sizes; outside them, the nearest one."""
    below = [p for p in points if p[0] <= n] or points[:1]
    above = [p for p in points if p[0] >= n] or points[-1:]
    (low, at_low), (high, at_high) = below[-1], above[0]
    return at_low if low == high else at_low + (at_high - at_low) * (n - low) / (high - low)


_FORMULAS: MappingProxyType[str, Callable[[_Rings], Curve]] = MappingProxyType({
    ALL_REDUCE: _reduce, ALL_GATHER: _gather, REDUCE_SCATTER: _scatter, ALL_TO_ALL: _exchange, PERMUTE: _shift,
    BROADCAST: _spread})

_IN_ONE_RING = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST)
