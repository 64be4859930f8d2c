"""Where stages lie on a line of devices, so that none is in more nodes than it must be.

Stages of less than a node fill one after the other, in pipeline order; those of whole nodes take the next that are
free. So a stage takes its activations from another node where it or the one before it is of whole nodes, or where it
begins a node. Where that would leave a stage in two nodes, or the levels above nodes matter, stages that are not
aligned to their size in pipeline order lie from the largest to the smallest (Alpa, OSDI'22, appendix A).

In: devices per stage. Out: the devices of each.
"""

from collections.abc import Sequence


def place(sizes: Sequence[int], node: int | None = None) -> list[tuple[int, ...]]:
    """Devices per stage. Sizes are powers of two of one node or whole nodes. `node`: devices of a node, where only
    nodes matter."""
    by_node = None if node is None else _node_by_node(sizes, node)
    if by_node is not None:
        return by_node
    straight, aligned = _laid(sizes, range(len(sizes)))
    return straight if aligned or len(set(sizes)) == 1 else \
        _laid(sizes, sorted(range(len(sizes)), key=lambda s: -sizes[s]))[0]


def _node_by_node(sizes: Sequence[int], node: int) -> list[tuple[int, ...]] | None:
    """See the module; None where a stage would be in two nodes."""
    placed: list[tuple[int, ...]] = []
    begun, free = range(0), 0
    for size in sizes:
        if size % node == 0:
            placed.append(tuple(range(free, free + size)))
            free += size
            continue
        if not begun:
            begun, free = range(free, free + node), free + node
        if size > len(begun):
            return None
        placed.append(tuple(begun[:size]))
        begun = begun[size:]
    return placed


def _laid(sizes: Sequence[int], order: Sequence[int]) -> tuple[list[tuple[int, ...]], bool]:
    """Devices per stage when they are handed out in that order, and whether every stage is aligned to its size."""
    placed: dict[int, tuple[int, ...]] = {}
    at, aligned = 0, True
    for s in order:
        aligned = aligned and at % sizes[s] == 0
        placed[s] = tuple(range(at, at + sizes[s]))
        at += sizes[s]
    return [placed[s] for s in range(len(sizes))], aligned
