"""Time to move optimizer state and activations between devices and their host's memory, and what of it shows.

Optimizer state comes and goes part by part in the weight update (`runtime/staged.py`): both directions of the link are
busy at once, and next to nothing computes beside. Activations go while the task after their forward runs, and come
while the task before their backward does (`emit/host_memory.py`); under 1F1B that is a backward and a forward of other
microbatches, in which they hide as far as those are long.

On an H200, 1.5 GB of moments in parts of 0.63 GB added 42 ms where this gives 43, and eight microbatches of a GPipe
stage that leave 2.3 GB each took 722 ms where this gives 704, and 64 without (benchmarks/offload.py).

In: bytes per device, `HostLink`, seconds of compute. Out: seconds.
"""

from planner.core.host import HostLink

AT_LEAST_IN_FLIGHT = 3
"""Microbatches in flight from which on activations are worth sending: two are on the devices anyway."""


def update_s(opt_bytes: float, part_bytes: float, link: HostLink) -> float:
    """Seconds of a step's end in which optimizer state of so many bytes visits the device: one part is on its way here
    while the one before is on its way back. Nothing goes back beside the first part, which is as large as any."""
    return 2 * link.latency_s + opt_bytes / link.both_bytes_per_s + part_bytes / link.to_device_bytes_per_s


def activations_s(saved_bytes: float, forward_s: float, backward_s: float, link: HostLink) -> float:
    """Seconds per microbatch by which what it leaves on the host makes others wait."""
    out = saved_bytes / link.to_host_bytes_per_s + link.latency_s - backward_s
    back = saved_bytes / link.to_device_bytes_per_s + link.latency_s - forward_s
    return max(out, 0.0) + max(back, 0.0)
