"""Made-up types of CPU devices: fast and slow ones, with much and with little memory."""

from planner.core.hardware import Cluster, Device, Link
from planner.core.mixed import mixed


def cpus(name: str, count: int, *, flops: float = 2e9, memory: float = 4e9, link: float = 2e9) -> Cluster:
    """A node of virtual CPU devices, compiled for as CPUs are."""
    device = Device(f"{name} cpu", (("float32", flops), ("default", flops / 4)), 0.8, int(memory), 1e10, 1e-6, 2e-5)
    return Cluster(name, device, 1, count, Link(link, 1e-5), Link(link / 2, 3e-5), reduce_scatter_as_all_reduce=True,
                   merges_all_reduces=True)


def fast_and_slow(*, between: float = 1e9) -> Cluster:
    """Four devices of 3 GFLOP/s and four of 1."""
    return mixed([cpus("fast", 4, flops=3e9), cpus("slow", 4, flops=1e9, memory=2e9)], Link(between, 2e-5))
