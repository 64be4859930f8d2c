"""Where stages lie on a line of devices, so that none is in more nodes than it must be (Alpa, OSDI'22, appendix A).

In: devices per stage. Out: the devices of each.
"""

from collections.abc import Sequence


def place(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Devices per stage. Sizes are powers of two of one node or whole nodes; in pipeline order when that keeps every
    stage aligned to its size, else the largest first (which always does; Alpa, appendix A)."""
    def lay(order: Sequence[int]) -> tuple[list[tuple[int, ...]], bool]:
        """Devices per stage when they are handed out in that order, and whether every stage is aligned to its size."""
        placed: dict[int, tuple[int, ...]] = {}
        at, aligned = 0, True
        for s in order:
            aligned = aligned and at % sizes[s] == 0
            placed[s] = tuple(range(at, at + sizes[s]))
            at += sizes[s]
        return [placed[s] for s in range(len(sizes))], aligned

    straight, aligned = lay(range(len(sizes)))
    return straight if aligned or len(set(sizes)) == 1 else lay(sorted(range(len(sizes)), key=lambda s: -sizes[s]))[0]
