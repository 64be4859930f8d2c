"""FLOPs of a compiled program's matrix products and convolutions, loops counted by their trips.

XLA's own cost analysis counts the body of a loop once, so it cannot be held against a plan with microbatches. In:
`Module`. Out: FLOPs of one run on one device; two for every multiply-add. Products that a backend hands to a library
(cuBLAS, cuDNN) are read from the call.
"""

import re
from math import prod

import numpy as np

from planner.verify.hlo import Array, Instruction, Module

_WANTED = re.compile(r" (?:dot|ragged-dot|convolution|custom-call)\(")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LIBRARY_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_GROUPS = re.compile(r"batch_group_count=(\d+)")


def matrix_flops(module: Module) -> int:
    """FLOPs of one run."""
    return sum(module.runs[i.computation] * _flops(module, i) for i in module.instructions(_WANTED))


def _flops(module: Module, at: Instruction) -> int:
    operands = [found.arrays[0] if found is not None and found.arrays else None
                for found in (module.instruction(at.computation, o) for o in at.operands[:2])]
    result = at.arrays[0] if at.arrays else None
    if result is None or len(operands) < 2 or operands[0] is None or operands[1] is None:
        return 0
    if at.opcode in ("dot", "ragged-dot"):
        return _product(at, _CONTRACTED, operands[0], result)
    if at.opcode == "convolution":
        return _convolution(at, operands[0], operands[1], result)
    target = _TARGET.search(at.attributes)
    if target is not None and ("gemm" in target[1] or "matmul" in target[1]):
        return _product(at, _LIBRARY_CONTRACTED, operands[0], result)
    return _convolution(at, operands[0], operands[1], result) if target is not None and "conv" in target[1] else 0


def _product(at: Instruction, contracted: re.Pattern[str], left: Array, result: Array) -> int:
    found = contracted.search(at.attributes)
    dims = [int(d.strip('" ')) for d in found[1].split(",") if d.strip('" ')] if found else []
    return 2 * prod(result.shape) * prod(left.shape[d] for d in dims)


def _convolution(at: Instruction, image: Array, kernel: Array, result: Array) -> int:
    """Two for every pair of an input and an output feature, and position of the window that falls on data.

    On TPU every product is a convolution, batch dimensions being spatial ones whose window falls on one element.
    """
    labels = _LABELS.search(at.attributes)
    if labels is None:
        return 0
    left, right, out = labels.groups()
    positions = prod(_positions(at.attributes, n, image.shape[left.index(str(n))], kernel.shape[right.index(str(n))],
                                result.shape[out.index(str(n))]) for n in range(len(left) - 2))
    groups = _GROUPS.search(at.attributes)
    batch = image.shape[left.index("b")] // (int(groups[1]) if groups else 1)
    return 2 * batch * kernel.shape[right.index("o")] * kernel.shape[right.index("i")] * positions


def _positions(attributes: str, n: int, size: int, window: int, out: int) -> int:
    """Along spatial dimension `n`: pairs of a place of the output and of the window that meet an element."""
    stride, step, spread = (int(_window(attributes, key, n) or 1) for key in ("stride", "rhs_dilate", "lhs_dilate"))
    low = int((_window(attributes, "pad", n) or "0_0").split("_")[0])
    at = np.add.outer(np.arange(out) * stride - low, np.arange(window) * step)
    return int(((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)).sum())


def _window(attributes: str, key: str, n: int) -> str | None:
    found = re.search(rf"window=\{{[^}}]*\b{key}=([\d_x\-]+)", attributes)
    return found[1].split("x")[n] if found else None
