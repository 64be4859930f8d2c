"""Seconds of arithmetic of matmuls and convolutions, by the sizes that one device is left with under each strategy.

A convolution is priced as the matmul that it is to a library which multiplies by tiles: its result's features are the
columns, and the rest of the result the rows.

In: an operator, its FLOPs and local sizes per strategy, a `Device`. Out: seconds per strategy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from planner.core.graph import Graph, Op
from planner.core.hardware import Device
from planner.costs.compute import FILTER_GRADIENT, convolution_efficiency
from planner.costs.matmuls import MatmulSizes, matmuls_s
from planner.intraop.setting import Array

CONVOLUTION = "conv_general_dilated"


@dataclass(frozen=True)
class Local:
    """One device's share of an operator, per strategy.

    Attributes:
      flops: of this device.
      size: (value, dimension) -> its size on one device.
      convolves: what a convolution computes, as in `costs.compute`; "" for others.
    """

    flops: Array
    size: Callable[[int, int], Array]
    convolves: str = ""


def arithmetic_s(graph: Graph, op: Op, local: Local, dtype: str, device: Device) -> Array:
    """Seconds of arithmetic per strategy; anything but products and convolutions runs at the rate of large matmuls."""
    result = op.results[0]
    rank = len(graph.values[result].shape)
    if op.primitive == CONVOLUTION:
        if device.convolutions is not None:
            return local.flops / (device.flops_per_s(dtype) * _convolution_share(op, local, device))
        features = int(op.params["dimension_numbers"].out_spec[1])
        return matmuls_s(_sizes(rank, result, 0, (features,), local), dtype, device)
    if op.primitive == "dot_general":
        (_, contracted), (_, batched) = op.params["dimension_numbers"]
        right = op.operands[1]
        whole = len(graph.values[right].shape if isinstance(right, int) else right.shape)
        free = whole - len(contracted) - len(batched)
        return matmuls_s(_sizes(rank, result, len(batched), tuple(range(rank - free, rank)), local), dtype, device)
    if op.primitive.startswith("ragged_dot"):
        return matmuls_s(_sizes(rank, result, 0, (rank - 1,), local), dtype, device)
    return local.flops / device.flops_per_s(dtype)


def _sizes(rank: int, result: int, batch: int, columns: tuple[int, ...], local: Local) -> MatmulSizes:
    """A product's sizes from those of its result: `batch` leading dimensions, columns, other rows. What is left of its
    FLOPs is contracted."""
    sizes = [local.size(result, d) for d in range(rank)]
    ones = np.ones_like(local.flops)
    count, wide = (reduce(np.multiply, part, ones) for part in (sizes[:batch], [sizes[d] for d in columns]))
    rows = reduce(np.multiply, [s for d, s in enumerate(sizes) if d >= batch and d not in columns], ones)
    return MatmulSizes(count, rows, wide, np.maximum(local.flops / (2 * count * rows * wide), 1.0))


def _convolution_share(op: Op, local: Local, device: Device) -> Array:
    """Part of the matmul rate that a convolution reaches."""
    numbers = op.params["dimension_numbers"]
    # The gradient of a filter takes the batch for features, and the filter's input features for a batch.
    filters = local.convolves == FILTER_GRADIENT
    value, spec = (op.results[0], numbers.out_spec) if filters else (op.inputs[1], numbers.rhs_spec)
    features = np.minimum(local.size(value, spec[0]), local.size(value, spec[1]))
    return convolution_efficiency(local.convolves, features, device)
