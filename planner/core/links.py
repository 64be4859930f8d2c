"""The ways between devices: links, how collectives run over them, and the levels of a network above. SI units."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CollectiveTime:
    """A measured collective over `devices` devices: `fixed_s + per_byte_s * n` seconds for n bytes.

    `kind` and the way of counting bytes are those of `costs/collectives.py`.
    """

    kind: str
    devices: int
    fixed_s: float
    per_byte_s: float


RING, TREE = "ring", "tree"
"""Algorithms of a `Protocol`."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One of the ways in which a communication library runs a collective over a link; it takes the fastest.

    Over n devices it takes `base_s + steps * step_s + bytes moved / (share * bandwidth)`: a ring steps once per device
    it passes, a tree (all-reduces alone) twice per doubling of devices.

    Attributes:
      name: as its library calls it (`"LL128"`).
      algorithm: `RING` or `TREE`.
      base_s: to start it.
      step_s: latency of one step.
      share: part of the link's bandwidth that it reaches.
    """

    name: str
    algorithm: str
    base_s: float
    step_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Link:
    """A way between devices, alpha-beta: moving n bytes takes `latency_s + n / bandwidth_bytes_per_s`.

    `bandwidth_bytes_per_s` is what one device can send (one direction) while all others send as well. Where `measured`
    has collectives of a kind, they replace the formulas for that kind; where there are `protocols`, a collective takes
    the fastest of them.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    measured: tuple[CollectiveTime, ...] = field(default=(), hash=False)  # compared; links are hashed in inner loops
    protocols: tuple[Protocol, ...] = field(default=(), hash=False)


@dataclass(frozen=True, slots=True)
class Level:
    """A level of the network above the node: the nodes of a cluster in groups of so many, one after the other.

    Attributes:
      name: what a group is called (`"rack"`, `"pod"`).
      nodes: in a group; the last one may have fewer. A group of the level above holds a whole number of these.
      link: of a *group* to the others; its bandwidth is shared by all devices of the group.
    """

    name: str
    nodes: int
    link: Link


def oversubscribed(name: str, nodes: int, factor: float, below: Link, groups: int) -> Level:
    """A level whose groups of `nodes` nodes reach the others with 1 / `factor` of what the `groups` parts of a group
    (its nodes, or groups of the level below) send together, each over a link like `below`."""
    return Level(name, nodes, Link(groups * below.bandwidth_bytes_per_s / factor, below.latency_s,
                                   protocols=below.protocols))


@dataclass(frozen=True, slots=True)
class Torus:
    """Chips joined to their neighbours in a grid, whose dimensions may be closed to rings (TPUs).

    Attributes:
      dimensions: 2 or 3.
      link: to one neighbour, in one direction; its latency is that of a hop.
      closes_at: a dimension of a slice is closed where it is a multiple of this.
      closes_together: only if all dimensions are.
    """

    dimensions: int
    link: Link
    closes_at: int
    closes_together: bool
