"""FLOPs of a compiled program's matrix products and convolutions, loops counted by their trips.

XLA's own cost analysis counts the body of a loop once, so it cannot be held against a plan with microbatches. In:
`Module`. Out: FLOPs of one run on one device; two for every multiply-add. Products that a backend hands to a library
(cuBLAS, cuDNN) are read from the call.
"""

import re
from math import prod

from planner.verify.hlo import Array, Instruction, Module

_WANTED = re.compile(r" (?:dot|ragged-dot|convolution|custom-call)\(")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LIBRARY_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->(\w+)")
_GROUPS = re.compile(r"batch_group_count=(\d+)")
_SIZES = re.compile(r"window=\{[^}]*size=([\dx]+)")


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
        return _convolution(at, operands[1], result)
    target = _TARGET.search(at.attributes)
    if target is not None and ("gemm" in target[1] or "matmul" in target[1]):
        return _product(at, _LIBRARY_CONTRACTED, operands[0], result)
    return _convolution(at, operands[1], result) if target is not None and "conv" in target[1] else 0


def _product(at: Instruction, contracted: re.Pattern[str], left: Array, result: Array) -> int:
    found = contracted.search(at.attributes)
    dims = [int(d.strip('" ')) for d in found[1].split(",") if d.strip('" ')] if found else []
    return 2 * prod(result.shape) * prod(left.shape[d] for d in dims)


def _convolution(at: Instruction, kernel: Array, result: Array) -> int:
    """Two for every element of the result, input feature and position of the window; a product on TPU is one of no
    window. Positions outside the input are counted, as the hardware runs them, but those of a batch group are not."""
    labels = _LABELS.search(at.attributes)
    if labels is None:
        return 0
    features = kernel.shape[labels[1].index("i")]
    sizes = _SIZES.search(at.attributes)
    window = prod(int(n) for n in sizes[1].split("x")) if sizes else 1
    groups = _GROUPS.search(at.attributes)
    return 2 * prod(result.shape) * features * window // (int(groups[1]) if groups else 1)
