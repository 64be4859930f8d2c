"""The batch on its way in, cut into microbatches; losses, metrics and outputs on their way out, put together again.

A microbatch is a run of consecutive examples. Over microbatches, the loss is averaged (or summed, by
`Model.loss_reduction`). Any other output whose dimension 0 is the microbatch is concatenated; else floating numbers are
averaged, integers summed, and of anything else the last is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from planner.errors import BatchError
from planner.model import Model, abstract, leaves_with_paths


@dataclass(frozen=True)
class BatchLeaf:
    """One leaf of the batch: its path, whole shape and dtype, and whether it is cut into microbatches."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    split: bool


def batch_leaves(model: Model, microbatches: int) -> tuple[BatchLeaf, ...]:
    """The leaves that a batch of this model has, in order."""
    return tuple(BatchLeaf(path, tuple(x.shape), x.dtype,
                           microbatches > 1 and bool(x.shape) and path not in model.unbatched)
                 for path, x in leaves_with_paths(abstract(model.batch)))


def checked_batch(leaves: Sequence[BatchLeaf], batch: Any) -> list[Any]:
    """The leaves of a batch, flat.

    Raises:
      BatchError: if paths, shapes or dtypes are not those of the model's example batch.
    """
    given = leaves_with_paths(batch)
    if [p for p, _ in given] != [leaf.path for leaf in leaves]:
        raise BatchError(f"the batch has leaves {[p for p, _ in given]}, "
                         f"the plan was made for {[x.path for x in leaves]}",
                         "give a batch with the structure of Model.batch")
    for leaf, (path, x) in zip(leaves, given, strict=True):
        if np.shape(x) != leaf.shape:
            raise BatchError(f"batch leaf {path!r} has shape {np.shape(x)}, the plan was made for {leaf.shape}",
                             "pad or cut the batch, or plan for the new shape")
    return [x if hasattr(x, "dtype") and x.dtype == leaf.dtype else np.asarray(x, leaf.dtype)
            for leaf, (_, x) in zip(leaves, given, strict=True)]


def in_microbatches(leaf: BatchLeaf, array: Any, microbatches: int) -> Any:
    """`[B, ...]` as `[microbatches, B / microbatches, ...]`, if the leaf is cut."""
    return array.reshape(microbatches, leaf.shape[0] // microbatches, *leaf.shape[1:]) if leaf.split else array


def in_parts(arrays: Sequence[Any], microbatches: int) -> list[Any]:
    """Every microbatch's part of every array, microbatch by microbatch; arrays of JAX are cut by one program."""
    if arrays and all(isinstance(x, jax.Array) for x in arrays):
        return _cut(tuple(arrays), microbatches)
    return _parts(arrays, microbatches)


def _parts(arrays: Sequence[Any], microbatches: int) -> list[Any]:
    sizes = [x.shape[0] // microbatches for x in arrays]
    return [x[m * size:(m + 1) * size] for m in range(microbatches) for x, size in zip(arrays, sizes, strict=True)]


_cut = jax.jit(_parts, static_argnums=1)


def combined_loss(losses: Any, reduction: str) -> Any:
    """`[microbatches]` losses as the loss of the batch."""
    return losses.sum() if reduction == "sum" else losses.mean()


def combined(stacked: Any, examples: int) -> Any:
    """`[microbatches, ...]` outputs as the output of the batch; see the module. `examples`: size of a microbatch."""
    if stacked.ndim > 1 and stacked.shape[1] == examples:
        return stacked.reshape(stacked.shape[0] * examples, *stacked.shape[2:])
    if jax.numpy.issubdtype(stacked.dtype, jax.numpy.inexact):
        return stacked.mean(0)
    return stacked.sum(0) if jax.numpy.issubdtype(stacked.dtype, jax.numpy.integer) else stacked[-1]


def examples_of(leaves: Sequence[BatchLeaf], microbatches: int) -> int:
    """Examples in a microbatch; -1 if no leaf of the batch is cut."""
    return next((leaf.shape[0] // microbatches for leaf in leaves if leaf.split), -1)
