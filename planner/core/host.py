"""What we know of the hosts of devices: the way to their memory, and how much there is. SI units."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostLink:
    """The way between a device and the memory of its host.

    Attributes:
      to_device_bytes_per_s, to_host_bytes_per_s: one direction at a time.
      both_bytes_per_s: each direction while both are used.
      latency_s: of a transfer.
      memory_bytes: of a node's host. A fifth of it is left to the system and to loading data. [chosen]
      shared_by: how many devices share that way (a PCIe switch).
    """

    to_device_bytes_per_s: float
    to_host_bytes_per_s: float
    both_bytes_per_s: float
    latency_s: float
    memory_bytes: int
    shared_by: int = 1

    @property
    def usable_bytes(self) -> float:
        """What a plan may use of a node's host memory."""
        return 0.8 * self.memory_bytes

    def while_busy(self, devices: int) -> "HostLink":
        """The way of one of so many devices of a node while all of them use theirs."""
        share = min(self.shared_by, devices)
        return HostLink(self.to_device_bytes_per_s / share, self.to_host_bytes_per_s / share,
                        self.both_bytes_per_s / share, self.latency_s, self.memory_bytes)
