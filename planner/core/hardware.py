"""What we know of the machines: devices, links, clusters, submeshes and logical meshes. SI units throughout."""

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


@dataclass(frozen=True, slots=True)
class Link:
    """A way between devices, alpha-beta: moving n bytes takes `latency_s + n / bandwidth_bytes_per_s`.

    `bandwidth_bytes_per_s` is what one device can send (one direction) while all others send as well. Where `measured`
    has collectives of a kind, they replace the ring formulas for that kind.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    measured: tuple[CollectiveTime, ...] = field(default=(), hash=False)  # compared; links are hashed in inner loops


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


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
      name: e.g. `"A100-SXM4-80GB"`.
      peak_flops_per_s: dtype name -> dense matmul peak (`"bfloat16"`, `"float32"`, ...); key `"default"` for any other.
      matmul_efficiency: fraction of the peak that large matmuls reach.
      memory_bytes: capacity usable by a program.
      memory_bandwidth_bytes_per_s: of device memory, sustained.
      launch_s: fixed cost of one operator inside a compiled program (kernel launch).
      dispatch_s: fixed cost of calling one compiled program on all devices of a stage.
      transcendentals_per_s: elements a second of exp, log, tanh, ...; None where memory traffic always takes longer.
      convolutions: their rates; None where they run as matmuls do.
    """

    name: str
    peak_flops_per_s: tuple[tuple[str, float], ...]
    matmul_efficiency: float
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    launch_s: float
    dispatch_s: float = 0.0
    transcendentals_per_s: float | None = None
    convolutions: ConvolutionRates | None = None

    def flops_per_s(self, dtype: str) -> float:
        """Reachable matmul rate for a dtype, in FLOP/s."""
        table = dict(self.peak_flops_per_s)
        return self.matmul_efficiency * table.get(dtype, table["default"])


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices.

    Attributes:
      name: profile name (`"dgx-a100"`).
      device: the accelerator.
      nodes: number of nodes.
      devices_per_node: accelerators in a node.
      intra_node: link of a device inside its node (NVLink, PCIe, shared memory).
      inter_node: link of a *node* to the others; its bandwidth is shared by the devices of the node.
      reduce_scatter_as_all_reduce: the compiler runs a reduce-scatter as an all-reduce and a slice (XLA on CPU).
      adds_before_all_reduce: where partial sums are added up, the compiler adds on each device first and all-reduces
        the total once (XLA on GPU), instead of all-reducing each (XLA on CPU).
      merges_all_reduces: the compiler makes one of all-reduces that don't wait for each other, as those of gradients
        don't (XLA on CPU): they cost their bytes, and one start.
      sources: (field, where the number is from) for each number in the profile.
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
    sources: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def device_count(self) -> int:
        return self.nodes * self.devices_per_node


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
    `reduce_scatter_as_all_reduce`, `adds_before_all_reduce` and `merges_all_reduces` are the cluster's. On a mesh that
    is `merging` (see `costs.collectives.when_merged`) an all-reduce costs its bytes alone.
    """

    submesh: Submesh
    shape: tuple[int, ...]
    links: tuple[Link, ...]
    reduce_scatter_as_all_reduce: bool = False
    adds_before_all_reduce: bool = False
    merges_all_reduces: bool = False
    merging: bool = False

    @property
    def device_count(self) -> int:
        return self.submesh.device_count
