"""A collective over one link by the protocols of its communication library.

A ring passes n-1 devices (an all-reduce twice), a tree doubles the devices it has reached with each step and goes up
and down once; each protocol starts, steps and fills the wire as its own constants say. The counts are those of NCCL's
tuning model (src/graph/tuning.cc), which also picks the fastest.

In: kind, devices, `Link` with protocols. Out: a `Curve`.
"""

from math import ceil, log2

from planner.core.hardware import TREE, Link, Protocol
from planner.costs.curve import Curve, Line


def over_protocols(kind: str, n: int, link: Link) -> Curve:
    """The fastest protocol at each number of bytes; trees run all-reduces alone."""
    ways = [p for p in link.protocols if p.algorithm != TREE or kind == "all-reduce"]
    return Curve.least([_line(kind, n, p, link.bandwidth_bytes_per_s) for p in ways])


def _line(kind: str, n: int, protocol: Protocol, bandwidth_bytes_per_s: float) -> Line:
    steps, moved = _steps_and_share(kind, n, tree=protocol.algorithm == TREE)
    return protocol.base_s + steps * protocol.step_s, moved / (protocol.share * bandwidth_bytes_per_s)


def _steps_and_share(kind: str, n: int, *, tree: bool) -> tuple[int, float]:
    """Steps one after another, and bytes that a device sends per byte of the collective."""
    if tree:
        return 2 * ceil(log2(n)), 2.0
    around = (n - 1) / n
    return {"all-reduce": (2 * (n - 1), 2 * around), "all-to-all": (n - 1, around / n),
            "collective-permute": (1, 1.0), "collective-broadcast": (n - 1, 1.0)}.get(kind, (n - 1, around))
