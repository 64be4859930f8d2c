"""What we know of the machines: devices, links, clusters, submeshes and logical meshes. SI units throughout."""

from dataclasses import dataclass, field
from itertools import accumulate

from planner.core.host import HostLink
from planner.core.links import RING as RING
from planner.core.links import TREE as TREE
from planner.core.links import CollectiveTime as CollectiveTime
from planner.core.links import Level as Level
from planner.core.links import Link as Link
from planner.core.links import Protocol as Protocol
from planner.core.links import Torus as Torus


@dataclass(frozen=True, slots=True)
class ConvolutionRates:
    """How fast a device convolves, in parts of its matmul rate, where convolutions don't reach that.

    Attributes:
      forward, input_gradient, filter_gradient: part of the matmul rate that wide convolutions of this kind reach.
      full_width: features below which a convolution is slower still: one whose input or output features on a device
        are only `n < full_width` runs at `n / full_width` of that.
    """

    forward: float
    input_gradient: float
    filter_gradient: float
    full_width: float


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a device cuts the result of a matmul into tiles that its units compute side by side (Roller, OSDI'22, §3).

    A tile at the edge takes as long as a full one, and the last wave of tiles as long as a full wave.

    Attributes:
      units: cores that compute tiles at the same time (an NVIDIA GPU's SMs, a TPU's matrix units).
      shapes: (rows, columns, part of the peak that full tiles of this shape reach); the fastest is taken.
      depth: the contracted size is padded to a multiple of this.
      fill: contracted elements' worth of time to fill and drain a tile's pipeline.
    """

    units: int
    shapes: tuple[tuple[int, int, float], ...]
    depth: int
    fill: int


@dataclass(frozen=True, slots=True)
class MatmulGrid:
    """Measured rates of matmuls of one dtype: `batch` products of (m, k) by (k, n) on one device while all are busy.

    `flops_per_s` has one rate per (batch, m, n, k) of the product of the four lists, the last varying fastest; each
    list ascends.
    """

    dtype: str
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    flops_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """A cache: what fits into `capacity_bytes` of it moves at `bandwidth_bytes_per_s` (one device's share)."""

    name: str
    capacity_bytes: int
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
      name: e.g. `"A100-SXM4-80GB"`.
      peak_flops_per_s: dtype name -> dense matmul peak (`"bfloat16"`, `"float32"`, ...); key `"default"` for any other.
      matmul_efficiency: fraction of the peak that large matmuls reach.
      memory_bytes: capacity usable by a program.
      memory_margin: share of it that plans leave free: for the allocator's fragmentation, and what the compiler's
        programs take that no model foresees.
      memory_bandwidth_bytes_per_s: of device memory, sustained.
      launch_s: fixed cost of one kernel inside a compiled program.
      dispatch_s: fixed cost of calling a compiled program on all devices of a stage, and `result_s` of each array that
        it gives back.
      transcendentals_per_s: elements a second of exp, log, tanh, ...; None where memory traffic always takes longer.
      convolutions: their rates; None where they run as matmuls do.
      matmuls: measured rates by shape; matmuls of a dtype that has a grid are timed by it alone.
      tiling: how matmuls are cut into tiles where no grid was measured; None: the peak's `matmul_efficiency` always.
      caches: levels of memory above device memory, the smallest first.
      exposed_traffic: which part of the time that operands take from device memory comes on top of a matmul's
        arithmetic, 0 to 1; 0 where it all hides beside it.
      relayout: how many times as long as its traffic alone a copy takes that transposes, where the compiler makes such
        to lay operands of matmuls out anew (XLA on CPU); None where its matmuls take any layout.
      kernel_per_result: the compiler makes a kernel for every result, each of which reads what it needs again (XLA on
        CPU); else one for all results of an optimizer's update, and of what it fuses.
      alone: how many times faster it computes while all others idle: above 1 where devices share cores, as virtual
        devices of a CPU do. All other figures are of one device while all are busy.
    """

    name: str
    peak_flops_per_s: tuple[tuple[str, float], ...]
    matmul_efficiency: float
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    launch_s: float
    dispatch_s: float = 0.0
    result_s: float = 0.0
    transcendentals_per_s: float | None = None
    convolutions: ConvolutionRates | None = None
    matmuls: tuple[MatmulGrid, ...] = ()
    tiling: Tiling | None = None
    caches: tuple[MemoryLevel, ...] = ()
    exposed_traffic: float = 0.0
    memory_margin: float = 0.08
    relayout: float | None = None
    alone: float = 1.0
    kernel_per_result: bool = False

    @property
    def usable_bytes(self) -> float:
        """What a plan may use of the memory."""
        return self.memory_bytes * (1 - self.memory_margin)

    def flops_per_s(self, dtype: str) -> float:
        """Reachable matmul rate for a dtype, in FLOP/s."""
        table = dict(self.peak_flops_per_s)
        return self.matmul_efficiency * table.get(dtype, table["default"])


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which part of a communication runs beside compute where there is enough compute beside it, 0 to 1.

    Attributes:
      gradient_sync: of combining gradients, beside the backward pass.
      parameter_gather: of gathering sharded parameters, beside the layers around them.
      hand_over: of carrying activations and cotangents between stages. It no longer keeps the receiver busy, but what
        is on its way still makes the receiver wait. The search charges hand-overs in full; only the simulator looks.
    """

    gradient_sync: float = 0.0
    parameter_gather: float = 0.0
    hand_over: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices; or several such clusters (`core/mixed.py`), one after the other: its own fields are
    then those of the first part, and `nodes` those of all.

    Attributes:
      name: profile name (`"dgx-a100"`).
      device: the accelerator.
      nodes: number of nodes.
      devices_per_node: accelerators in a node.
      intra_node: link of a device inside its node (NVLink, PCIe, shared memory).
      inter_node: link of a *node* to the others; its bandwidth is shared by the devices of the node.
      levels: groups of nodes (racks, pods) whose own links are shared by all their nodes, the smallest first; none:
        every node reaches every other over `inter_node` alone.
      torus: how its chips are joined, in place of `intra_node` and `inter_node`; None: not in a torus.
      reduce_scatter_as_all_reduce: the compiler runs a reduce-scatter as an all-reduce and a slice (XLA on CPU).
      adds_before_all_reduce: where partial sums are added up, the compiler adds on each device first and all-reduces
        the total once (XLA on GPU), instead of all-reducing each (XLA on CPU).
      merges_all_reduces: the compiler makes one of all-reduces that don't wait for each other, as those of gradients
        don't (XLA on CPU): they cost their bytes, and one start.
      overlap: what runs beside compute; None: nothing does.
      host: the way to the host's memory; None: nothing is known of it, and plans keep nothing there.
      sources: (field, where the number is from) for each number in the profile.
      price_usd_per_device_hour: what renting one device of it for an hour costs; None: not known. It is no part of what
        plans are made from.
      parts: clusters of different devices that this one is made of; none where all are equal.
      between: the link of a node of one part to the nodes of the others.
    """

    name: str
    device: Device
    nodes: int
    devices_per_node: int
    intra_node: Link
    inter_node: Link
    reduce_scatter_as_all_reduce: bool = False
    adds_before_all_reduce: bool = False
    merges_all_reduces: bool = False
    overlap: Overlap | None = None
    host: HostLink | None = None
    sources: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    levels: tuple[Level, ...] = ()
    torus: Torus | None = None
    price_usd_per_device_hour: float | None = field(default=None, compare=False)
    parts: tuple["Cluster", ...] = ()
    between: Link | None = None

    @property
    def device_count(self) -> int:
        return sum(p.device_count for p in self.parts) if self.parts else self.nodes * self.devices_per_node

    @property
    def kinds(self) -> tuple["Cluster", ...]:
        """The clusters of equal devices that it is made of: its parts, or itself."""
        return self.parts or (self,)

    def part_of(self, device: int) -> int:
        """The index in `kinds` of the part that holds a device."""
        held = accumulate(p.device_count for p in self.kinds)
        return next((n for n, end in enumerate(held) if device < end), len(self.kinds) - 1)

    def kind_of(self, device: int) -> "Cluster":
        """The part that holds a device."""
        return self.kinds[self.part_of(device)]

    def first_of(self, part: int) -> int:
        """The first device of a part."""
        return sum(p.device_count for p in self.kinds[:part])

    def node_of(self, device: int) -> int:
        """The node that a device is in, counted over all parts."""
        part = self.part_of(device)
        within = (device - self.first_of(part)) // self.kinds[part].devices_per_node
        return sum(p.nodes for p in self.kinds[:part]) + within

    def device_name(self, device: int) -> str:
        """`"node3.gpu5"`."""
        within = (device - self.first_of(self.part_of(device))) % self.kind_of(device).devices_per_node
        return f"node{self.node_of(device)}.gpu{within}"

    @property
    def described(self) -> str:
        """Its devices in words: `"16 × A100-SXM4-80GB of 80 GB + 8 × V100-SXM2-16GB of 16 GB"`."""
        return " + ".join(f"{p.device_count} × {p.device.name} of {p.device.memory_bytes / 1e9:.4g} GB"
                          for p in self.kinds)


@dataclass(frozen=True, slots=True)
class Submesh:
    """The shape of a set of devices that one stage runs on: `nodes` × `devices_per_node` (Alpa, §5.2)."""

    nodes: int
    devices_per_node: int

    @property
    def device_count(self) -> int:
        return self.nodes * self.devices_per_node


@dataclass(frozen=True, slots=True)
class LogicalMesh:
    """A submesh seen as an n-dimensional array of devices (row-major), with the link that each axis uses.

    `links[a].bandwidth_bytes_per_s` is per device while all groups along axis `a` communicate at once.
    `reduce_scatter_as_all_reduce`, `adds_before_all_reduce` and `merges_all_reduces` are the cluster's. Where devices
    are not row-major, `spread` has the parts of each axis: (how many, how far apart in the submesh). On a mesh that is
    `merging` (see `costs.collectives.when_merged`) an all-reduce costs its bytes alone.
    """

    submesh: Submesh
    shape: tuple[int, ...]
    links: tuple[Link, ...]
    reduce_scatter_as_all_reduce: bool = False
    adds_before_all_reduce: bool = False
    merges_all_reduces: bool = False
    merging: bool = False
    spread: tuple[tuple[tuple[int, int], ...], ...] = ()

    @property
    def device_count(self) -> int:
        return self.submesh.device_count

    @property
    def order(self) -> tuple[int, ...]:
        """The devices of the submesh, row-major over the mesh; empty where that is as they come."""
        found = [0]
        for parts, apart in (part for axis in self.spread for part in axis):
            found = [at + n * apart for at in found for n in range(parts)]
        return tuple(found) if found != sorted(found) else ()

    def carried(self, itemsize: int) -> int:
        """Bytes of an element on its way between devices. The compiler that merges all-reduces, XLA on CPU, computes
        16-bit floats in float32, and moves them so."""
        return 4 if itemsize == 2 and self.merges_all_reduces else itemsize
