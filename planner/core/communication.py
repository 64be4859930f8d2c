"""A communication that a plan foresees, and how it names what it is for."""

from dataclasses import dataclass

GATHER_OF, GRADIENT_OF, HALO_OF = "parameter ", "gradient of ", "halo of "
"""How `Collective.where` starts for gathers of parameters, combinations of gradients and exchanges with neighbours."""

OPERAND, RESULT = "operand", "result"
"""On which side of its operator a tensor is."""


@dataclass(frozen=True, slots=True)
class Collective:
    """A predicted communication of a stage: per microbatch (or per batch), for explanation and verification.

    `bytes` is the full size of the result along these axes, per device group; `where` names the operator or tensor: it
    starts with `GATHER_OF` or `GRADIENT_OF` where a parameter is gathered or its gradient combined, with `HALO_OF`
    where a window reads slices of neighbouring shards. Where `count` is more than one, as many tensors of equal bytes
    are communicated (as in a layer that repeats), and `bytes` and `time_s` are of all of them. `side`: whether it is
    an `OPERAND` of the operator named or a `RESULT`, as the phase computes them; `cut` and `cuts` are the dimensions of
    the tensor that the axes cut before and after.
    """

    kind: str
    axes: tuple[int, ...]
    bytes: int
    time_s: float
    per: str  # "microbatch" or "batch"
    phase: str
    where: str
    count: int = 1
    side: str = ""
    cut: tuple[int, ...] = ()
    cuts: tuple[int, ...] = ()
