"""How much of a communication hides behind compute: what step times and the simulator both rest on.

A communication of s seconds with fraction f beside c seconds of compute takes

    s - min(f · s, c)

seconds more than the compute alone: at best the part f runs beside it, and no more of it than there is compute. Several
communications share the compute that they stand beside. What it means per layer, for a search whose costs are sums:

    forward    parameter gathers            beside the layer's forward kernels
    backward   parameter gathers, gradients beside the layer's backward kernels
               combined every microbatch
    batch      gradients combined once      beside what the last backward's kernels have left to hide behind

`f` comes with the machine (`core.hardware.Overlap`), measured or from a published measurement. Prefetching a layer
ahead, as PyTorch's FSDP does (Zhao et al., arXiv:2304.11277, section 3.3), gives the same sums where neighbouring
layers are alike.

In: seconds and fractions. Out: seconds.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Seconds = TypeVar("Seconds", float, NDArray[np.float64])


def hidden_s(hideable_s: Seconds, compute_s: Seconds) -> Seconds:
    """Seconds that run beside compute.

    Args:
      hideable_s: Σ f · s of the communications that stand beside the compute.
      compute_s: of the compute.
    """
    if isinstance(hideable_s, float) and isinstance(compute_s, float):
        return min(hideable_s, compute_s)
    return np.minimum(hideable_s, compute_s)
