"""Slices of TPUs: how chips lie on a torus, which of its dimensions a logical axis gets, and what that makes its link.

The chips of a slice are numbered along one line: the longest dimension is halved (cut by its largest prime factor),
then the longest of what is left, first between hosts and then within one. So a host is `devices_per_node` numbers in a
row, and as many chips as the last few cuts leave, beginning at a multiple of their count, are a smaller torus: those
are the submeshes. Each cut is a digit of a chip's number. A logical axis takes some of the digits: of each dimension
all of them, or a run; what goes wholly along a dimension has its links for itself, and what shares one shares its
links. An axis over several dimensions uses the links of all, as many as a chip has there.

    bandwidth = Σ over dimensions of  link · (2 around a ring that is closed, 1 on an open line) / groups that share it

Sources: Austin et al., How to Scale Your Model (jax-ml.github.io/scaling-book), parts 2 and 3; Cloud TPU documentation
on v4, v5e and v5p; `jax.experimental.mesh_utils`, which gives logical axes whole dimensions where it can.

In: a `Cluster` whose profile has a torus, counts of devices, shapes. Out: `TorusMesh`es, orders of devices.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations, product
from math import prod

from planner.core.hardware import Cluster, Link
from planner.core.links import Torus
from planner.errors import MeshError

Digit = tuple[int, int]
"""A cut: (dimension, into how many parts)."""


@dataclass(frozen=True)
class TorusMesh:
    """A logical mesh on a torus: a link per axis, and of each axis the digits it has, as (parts, how far apart in the
    line), the slowest varying first."""

    links: tuple[Link, ...]
    spread: tuple[tuple[tuple[int, int], ...], ...]


@lru_cache(maxsize=256)
def digits(nodes: int, devices_per_node: int, dimensions: int) -> tuple[Digit, ...]:
    """The cuts of a slice, from the whole to single chips."""
    host = _balanced(devices_per_node, (1,) * dimensions)
    whole = _balanced(nodes, host)
    return (*_cuts(tuple(w // h for w, h in zip(whole, host, strict=True)), host), *_cuts(host, (1,) * dimensions))


def extents(cuts: Sequence[Digit], dimensions: int) -> tuple[int, ...]:
    """The size of each dimension of the torus that these cuts are of."""
    return tuple(prod(parts for d, parts in cuts if d == dimension) for dimension in range(dimensions))


def block_sizes(cluster: Cluster) -> tuple[int, ...]:
    """Counts of chips that make a smaller torus wherever they begin at a multiple of their count; ascending."""
    found, size = [1], 1
    for _, parts in reversed(_of(cluster)):
        size *= parts
        found.append(size)
    return tuple(found)


@lru_cache(maxsize=4096)
def torus_mesh(cluster: Cluster, devices: int, shape: tuple[int, ...]) -> TorusMesh | None:
    """The logical mesh of that shape on a smaller torus of so many chips whose slowest axis is the fastest; None where
    the axes don't go into its dimensions.

    Raises:
      MeshError: so many chips are no smaller torus.
    """
    torus = cluster.torus
    assert torus is not None
    cuts = _block(cluster, devices)
    whole, block = extents(_of(cluster), torus.dimensions), extents(cuts, torus.dimensions)
    closed = tuple(b == w for b, w in zip(block, whole, strict=True))
    closed = tuple(c and wraps for c, wraps in zip(closed, _wraps(torus, whole), strict=True))
    best: tuple[tuple[float, ...], TorusMesh] | None = None
    for owners in _owners(cuts, shape, torus.dimensions):
        links = tuple(_link(torus, cuts, owners, axis, closed) for axis in range(len(shape)))
        rates = [link.bandwidth_bytes_per_s for link, n in zip(links, shape, strict=True) if n > 1]
        rank = tuple(sorted(rates)), sum(rates)
        if best is None or (*rank[0], rank[1]) > best[0]:
            best = (*rank[0], rank[1]), TorusMesh(links, _spread(cuts, owners, len(shape)))
    return best[1] if best else None


def neighbour_link(cluster: Cluster, devices: int) -> Link:
    """Per chip, the link from a smaller torus of so many chips to the one beside it, while all of them send: through
    the face between the two, as many chips deep as its longest dimension."""
    torus = cluster.torus
    assert torus is not None
    size = max((n for n in block_sizes(cluster) if n <= devices), default=1)
    deep = max(extents(_block(cluster, size), torus.dimensions))
    return Link(torus.link.bandwidth_bytes_per_s / deep, torus.link.latency_s * deep)


def in_line(cluster: Cluster, coordinates: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """The indices of chips at these coordinates, in the order in which plans number them; None where the chips aren't
    the torus that the cluster describes."""
    torus = cluster.torus
    if torus is None or any(len(c) < torus.dimensions for c in coordinates):
        return None
    cuts = _of(cluster)
    low = [min(c[d] for c in coordinates) for d in range(len(coordinates[0]))]
    size = [max(c[d] for c in coordinates) - low[d] + 1 for d in range(len(low))]
    planned = extents(cuts, torus.dimensions)
    places = next((p for p in permutations(range(len(size)), torus.dimensions)
                   if tuple(size[d] for d in p) == planned), None)
    known = {tuple(c): n for n, c in enumerate(coordinates)}
    if places is None or len(known) != prod(planned) or prod(size) != prod(planned):
        return None
    found: list[int] = []
    for number in product(*(range(parts) for _, parts in cuts)):
        at = list(low)
        for d, place in enumerate(places):
            value = 0
            for (dimension, parts), digit in zip(cuts, number, strict=True):
                value = value * parts + digit if dimension == d else value
            at[place] += value
        found.append(known[tuple(at)])
    return tuple(found)


@dataclass(frozen=True)
class SliceLeft:
    """A smaller torus as a cluster of its own, and the first of its chips in the one that it is cut from."""

    cluster: Cluster
    first: int

    @property
    def described(self) -> str:
        """`"8 hosts, 2 x 4 x 4 chips, from chip 32 on"`."""
        c = self.cluster
        size = " x ".join(map(str, slice_of(c)))
        what = f"{c.nodes} hosts, {size} chips" if c.nodes > 1 else f"{size} chips of one host"
        return f"{what}, from chip {self.first} on"


def left_of(cluster: Cluster, lost: Container[int]) -> tuple[SliceLeft, ...]:
    """Of every size of a smaller torus, the first that holds none of the lost chips, the largest size first. It is
    numbered in the same way by itself; whether its dimensions are closed is then that of a slice of its size."""
    torus = cluster.torus
    assert torus is not None
    found: list[SliceLeft] = []
    cuts, each = _of(cluster), cluster.devices_per_node
    for size in reversed(block_sizes(cluster)):
        alone = replace(cluster, nodes=max(1, size // each), devices_per_node=min(size, each))
        if _of(alone) != cuts[len(cuts) - len(_of(alone)):]:
            continue
        at = next((at for at in range(0, cluster.device_count, size)
                   if not any(chip in lost for chip in range(at, at + size))), None)
        if at is not None:
            found.append(SliceLeft(alone, at))
    return tuple(found)


def slice_of(cluster: Cluster) -> tuple[int, ...]:
    """The dimensions of the whole torus."""
    return extents(_of(cluster), cluster.torus.dimensions if cluster.torus else 0)


def _of(cluster: Cluster) -> tuple[Digit, ...]:
    assert cluster.torus is not None
    return digits(cluster.nodes, cluster.devices_per_node, cluster.torus.dimensions)


def _block(cluster: Cluster, devices: int) -> tuple[Digit, ...]:
    """The last cuts, which make that many chips."""
    cuts, size = _of(cluster), 1
    for n in range(len(cuts), -1, -1):
        if size == devices:
            return cuts[n:]
        size *= cuts[n - 1][1] if n else 1
    whole = " x ".join(map(str, slice_of(cluster)))
    raise MeshError(f"{devices} devices are no smaller torus of the {whole} of {cluster.name!r}",
                    f"use {', '.join(map(str, block_sizes(cluster)))}")


def _wraps(torus: Torus, whole: Sequence[int]) -> tuple[bool, ...]:
    each = tuple(n % torus.closes_at == 0 for n in whole)
    return each if not torus.closes_together else (all(each),) * len(each)


def _balanced(count: int, inner: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions of `count` blocks of size `inner`, as near to a square or cube as possible."""
    def grids(left: int, dims: int) -> list[tuple[int, ...]]:
        if dims == 1:
            return [(left,)]
        return [(d, *rest) for d in range(1, left + 1) if left % d == 0 for rest in grids(left // d, dims - 1)]
    sizes = [tuple(g * n for g, n in zip(grid, inner, strict=True)) for grid in grids(count, len(inner))]
    return min(sizes, key=lambda s: (sum(s), s))


def _cuts(grid: tuple[int, ...], inner: tuple[int, ...]) -> tuple[Digit, ...]:
    left, found = list(grid), list[Digit]()
    while prod(left) > 1:
        d = max((d for d in range(len(left)) if left[d] > 1), key=lambda d: (left[d] * inner[d], -d))
        parts = _largest_prime(left[d])
        found.append((d, parts))
        left[d] //= parts
    return tuple(found)


def _largest_prime(n: int) -> int:
    found, factor = 1, 2
    while n > 1:
        if n % factor:
            factor += 1
        else:
            found, n = factor, n // factor
    return found


def _owners(cuts: Sequence[Digit], shape: tuple[int, ...], dimensions: int) -> list[tuple[int, ...]]:
    """Every way to give each cut to an axis, such that every axis gets its size and has a run of each dimension; axes
    in order along a dimension, or in any order where that is not possible."""
    axes = len(shape)
    mine = [[n for n, (d, _) in enumerate(cuts) if d == dimension] for dimension in range(dimensions)]
    for orders in ([tuple(range(axes))], list(permutations(range(axes)))):
        found: list[tuple[int, ...]] = []
        ways = [[run for order in orders for run in _runs(len(at), order)] for at in mine]
        for chosen in product(*ways):
            owner = [0] * len(cuts)
            for at, run in zip(mine, chosen, strict=True):
                for n, axis in zip(at, run, strict=True):
                    owner[n] = axis
            if all(prod(p for (_, p), a in zip(cuts, owner, strict=True) if a == axis) == shape[axis]
                   for axis in range(axes)):
                found.append(tuple(owner))
        if found:
            return found
    return []


def _runs(count: int, order: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Ways to give `count` cuts of a dimension to axes, in runs, in that order."""
    if not order:
        return [()] if count == 0 else []
    return [(order[0],) * n + rest for n in range(count + 1) for rest in _runs(count - n, order[1:])]


def _link(torus: Torus, cuts: Sequence[Digit], owners: Sequence[int], axis: int, closed: Sequence[bool]) -> Link:
    rate, hops, size = 0.0, 0.0, 1
    for dimension in range(torus.dimensions):
        run = [(p, a) for (d, p), a in zip(cuts, owners, strict=True) if d == dimension]
        own = prod(p for p, a in run if a == axis)
        if own == 1:
            continue
        apart = prod(p for n, (p, a) in enumerate(run) if a != axis and all(b != axis for _, b in run[n:]))
        ring = closed[dimension] and own * apart == prod(p for p, _ in run)
        rate += torus.link.bandwidth_bytes_per_s * (2 if ring else 1) / apart
        hops += apart * (own / 2 if ring else own - 1)
        size *= own
    if size == 1:
        return torus.link
    return Link(rate, torus.link.latency_s * hops / (size - 1))  # collectives count size - 1 steps


def _spread(cuts: Sequence[Digit], owners: Sequence[int], axes: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    apart = [prod(p for _, p in cuts[n + 1:]) for n in range(len(cuts))]
    return tuple(tuple((cuts[n][1], apart[n]) for n in sorted(range(len(cuts)), key=lambda n: (cuts[n][0], n))
                       if owners[n] == axis) for axis in range(axes))
