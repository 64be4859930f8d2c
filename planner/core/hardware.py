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
    """

    name: str
    peak_flops_per_s: tuple[tuple[str, float], ...]
    matmul_efficiency: float
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    launch_s: float
    dispatch_s: float = 0.0
    transcendentals_per_s: float | None = None

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
    `reduce_scatter_as_all_reduce` and `adds_before_all_reduce` are the cluster's.
    """

    submesh: Submesh
    shape: tuple[int, ...]
    links: tuple[Link, ...]
    reduce_scatter_as_all_reduce: bool = False
    adds_before_all_reduce: bool = False

    @property
    def device_count(self) -> int:
        return self.submesh.device_count
