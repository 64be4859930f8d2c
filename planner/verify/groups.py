"""Who takes part in a collective: replica groups in every form of HLO's text, and the mesh axes they run along.

In: the attributes of an instruction, a mesh shape. Out: groups of partition numbers; axes. Forms: lists
(`{{0,1},{2,3}}`), iota tiles (`[2,4]<=[4,2]T(1,0)`: count up over [4,2], transpose, cut into 2 groups of 4), and meshes
(`mesh['a'=2,'b'=4] {'b'}`, with `'b':(1)2` for the part of an axis that has one subaxis of size 1 before it).
"""

import re
from collections.abc import Iterable
from itertools import chain, combinations
from math import prod

import numpy as np
from numpy.typing import NDArray

Groups = tuple[tuple[int, ...], ...]
"""Partition numbers of each group."""

_LIST = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
_TILE = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_TURNED = re.compile(r"\[([\d,]+)\]T\(([\d,]+)\)")
_MESH = re.compile(r"replica_groups=(?:@\w+ )?mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}")
_AXIS = re.compile(r"'?([\w\-]+)'?=(\d+)")
_USED = re.compile(r"'?([\w\-]+)'?(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


def replica_groups(attributes: str, devices: int) -> Groups:
    """The groups of an instruction; without any (or with empty ones) all devices are one group."""
    if found := _LIST.search(attributes):
        groups = tuple(_numbers(g) for g in re.findall(r"\{([\d,]*)\}", found[1]))
        return groups if any(groups) else (tuple(range(devices)),)
    if found := _IOTA.search(attributes):
        tile = _tile(found[1])
        return tuple(tuple(int(n) for n in row) for row in tile.reshape(tile.shape[0], -1))
    if found := _MESH.search(attributes):
        return _mesh_groups(found[1], found[2], found[3])
    return (tuple(range(devices)),)


def source_target_pairs(attributes: str) -> Groups:
    """Who sends to whom in a permute."""
    found = _PAIRS.search(attributes)
    return tuple(_numbers(p) for p in re.findall(r"\{(\d+,\d+)\}", found[1])) if found else ()


def cycles(pairs: Groups) -> Groups:
    """The rings that senders and receivers form: each as the partitions in the order of the way, from the lowest."""
    to = {pair[0]: pair[1] for pair in pairs}
    found: list[tuple[int, ...]] = []
    for start in sorted(to):
        if start in to:
            ring = [start]
            while (after := to.pop(ring[-1], start)) != start:
                ring.append(after)
            found.append(tuple(ring))
    return tuple(found)


def axes_of_groups(groups: Groups, mesh_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of a row-major mesh whose devices form these groups; None if no set of axes does.

    Axes of size one are never named.
    """
    real = [a for a, n in enumerate(mesh_shape) if n > 1]
    wanted = {frozenset(g) for g in groups}
    for axes in chain.from_iterable(combinations(real, k) for k in range(len(real) + 1)):
        if _along(axes, mesh_shape) == wanted:
            return axes
    return None


def axes_of_pairs(pairs: Groups, mesh_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which any sender differs from its receiver."""
    if not pairs:
        return ()
    sources, targets = (np.array(np.unravel_index([p[k] for p in pairs], mesh_shape or (1,))) for k in (0, 1))
    return tuple(int(a) for a in np.flatnonzero((sources != targets).any(axis=1)))


def _along(axes: Iterable[int], mesh_shape: tuple[int, ...]) -> set[frozenset[int]]:
    chosen = tuple(axes)
    order = [a for a in range(len(mesh_shape)) if a not in chosen] + list(chosen)
    size = prod(mesh_shape[a] for a in chosen)
    numbers = np.arange(prod(mesh_shape)).reshape(mesh_shape).transpose(order).reshape(-1, size)
    return {frozenset(int(n) for n in row) for row in numbers}


def _mesh_groups(axes: str, device_ids: str | None, used: str) -> Groups:
    sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
    names = list(sizes)
    dims: list[int] = []
    position: dict[tuple[str, int], int] = {}
    parts = [(name, int(pre) if pre else 1, int(size) if size else sizes[name])
             for name, pre, size in _USED.findall(used)]
    for name in names:  # every axis cut at the borders of the parts that are used
        cuts = sorted({1, sizes[name]} | {n for part, pre, size in parts if part == name for n in (pre, pre * size)})
        for low, high in zip(cuts, cuts[1:], strict=False):
            position[name, low] = len(dims)
            dims.append(high // low)
    numbers = _order(device_ids, prod(sizes.values())).reshape(dims or [1])
    chosen = [position[name, low] for name, pre, size in parts
              for (axis, low) in position if axis == name and pre <= low < pre * size]
    rest = [d for d in range(numbers.ndim) if d not in chosen]
    count = prod(numbers.shape[d] for d in chosen)
    return tuple(tuple(int(n) for n in row) for row in numbers.transpose([*rest, *chosen]).reshape(-1, count))


def _order(device_ids: str | None, count: int) -> NDArray[np.int64]:
    if not device_ids:
        return np.arange(count)
    if "<=" in device_ids:
        return _tile(device_ids).reshape(-1)
    if found := _TURNED.fullmatch(device_ids):
        return np.arange(count).reshape(_numbers(found[1])).transpose(_numbers(found[2])).reshape(-1)
    return np.array([int(n) for n in re.findall(r"\d+", device_ids)])


def _tile(text: str) -> NDArray[np.int64]:
    found = _TILE.search(text)
    if found is None:
        raise ValueError(f"no iota tile: {text!r}")
    counted = np.arange(prod(_numbers(found[2]))).reshape(_numbers(found[2]))
    turned = counted.transpose(_numbers(found[3])) if found[3] else counted
    return turned.reshape(_numbers(found[1]))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)
