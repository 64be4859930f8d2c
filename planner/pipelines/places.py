"""Where stages lie on a line of devices, so that none is in more nodes, racks or pods than it must be.

Stages of less than a node fill one after the other, in pipeline order; those of whole nodes take nodes of their own. So
a stage takes its activations from another node where it or the one before it is of whole nodes, or where it begins a
node. Nodes are taken in pipeline order where that keeps every stage aligned to its size, else by the largest stages
first, which always does (Alpa, OSDI'22, appendix A).

In: devices per stage. Out: the devices of each.
"""

from collections.abc import Sequence


def place(sizes: Sequence[int], node: int | None = None) -> list[tuple[int, ...]]:
    """Devices per stage. Sizes are powers of two of one node or whole nodes. `node`: devices of a node; None where
    nodes don't matter. They don't either where a stage would be in two of them for the others to be filled in order."""
    shared = None if node is None else _nodes(sizes, node)
    if node is None or shared is None:
        return _laid(sizes)
    blocks = [max(sizes[together[0]], node) for together in shared]
    found: dict[int, tuple[int, ...]] = {}
    for together, block in zip(shared, _laid(blocks), strict=True):
        for n, s in enumerate(together):
            at = sum(sizes[other] for other in together[:n])
            found[s] = block[at:at + sizes[s]]
    return [found[s] for s in range(len(sizes))]


def _nodes(sizes: Sequence[int], node: int) -> list[list[int]] | None:
    """Stages by the nodes that they share, or have to themselves, in the order in which these begin; None where a stage
    would be in two."""
    found, begun, free = list[list[int]](), list[int](), 0
    for s, size in enumerate(sizes):
        if size % node == 0:
            found.append([s])
            continue
        if not free:
            begun, free = list[int](), node
            found.append(begun)
        if size > free:
            return None
        begun.append(s)
        free -= size
    return found


def _laid(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Devices per stage, one after the other where that keeps every stage aligned to its size, or all are equal; else
    the largest first."""
    placed, aligned = _in_order(sizes, range(len(sizes)))
    return placed if aligned or len(set(sizes)) == 1 else \
        _in_order(sizes, sorted(range(len(sizes)), key=lambda s: -sizes[s]))[0]


def _in_order(sizes: Sequence[int], order: Sequence[int]) -> tuple[list[tuple[int, ...]], bool]:
    """Devices per stage when they are handed out in that order, and whether every stage is aligned to its size."""
    placed: dict[int, tuple[int, ...]] = {}
    at, aligned = 0, True
    for s in order:
        aligned = aligned and at % sizes[s] == 0
        placed[s] = tuple(range(at, at + sizes[s]))
        at += sizes[s]
    return [placed[s] for s in range(len(sizes))], aligned
