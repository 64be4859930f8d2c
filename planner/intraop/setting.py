"""Where and how a layer is priced, and the kinds of cost that a choice has.

Flows in from the search: mesh, device, axis uses, microbatches, pins. Every price of `intraop` is made under one
`Setting`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Device, LogicalMesh, Overlap
from planner.core.spec import Spec
from planner.strategies import AxisUse

Array = NDArray[np.float64]

Costs = dict[str, Array]
"""Arrays by kind: `forward_s` and `backward_s` per microbatch, `batch_s` once per batch, `resident_bytes` held all the
time, `saved_bytes` per microbatch in flight, `sync_bytes` while all gradients are combined at once. `HIDDEN` is what
is left out of the first three because it may run beside kernels, `AGAIN` holds where selected tensors are recomputed.
An absent kind is zero."""

AGAIN = ("again_s", "kept_bytes")
"""What is added to `backward_s`, and what takes the place of `saved_bytes`, where a layer recomputes selected tensors.
"""

HIDDEN = ("hidden_forward_s", "hidden_backward_s", "hidden_batch_s")
"""Kinds of seconds that may hide, of `forward_s`, `backward_s` and `batch_s`."""

MAX_CLASSES = 7
"""Classes of a group, or dimensions of a tensor, that may be sharded; beyond this the smallest stay unsharded, so that
strategies stay countable. [chosen: no model of the zoo has more that matter]"""


@dataclass(frozen=True)
class Setting:
    """Where and how a layer is priced."""

    mesh: LogicalMesh
    device: Device
    uses: tuple[AxisUse, ...]
    microbatches: int
    training: bool
    pins: Mapping[int, Spec] = field(default_factory=dict[int, Spec])  # owner of a tensor or parameter -> its spec
    keeps: bool = True  # whether tensors marked as saved are (all but inference)
    max_classes: int = MAX_CLASSES
    overlap: Overlap = field(default_factory=Overlap)
    apart: bool = False  # forward and backward are programs of their own: neither has copies made for the other
