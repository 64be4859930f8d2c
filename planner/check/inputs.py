"""Random numbers for a check: batches for every step, and parameters and state where the model has only shapes.

Integers of a batch are drawn from the range of the example batch (token ids stay in the vocabulary), or from {0, 1}
where the example is abstract. In: a model and a seed. Out: pytrees of NumPy arrays.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from planner.model import Model


def random_batch(model: Model, seed: int) -> Any:
    """A batch of the model's shapes; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map(lambda x: _batch_leaf(rng, x), model.batch)


def with_numbers(model: Model, seed: int) -> Model:
    """The model, with random parameters and plausible state in place of abstract leaves."""
    rng = np.random.default_rng(seed)
    return replace(model, params=jax.tree_util.tree_map(lambda x: _param_leaf(rng, x), model.params),
                   state=jax.tree_util.tree_map(lambda x: _state_leaf(x, seed), model.state))


def _batch_leaf(rng: np.random.Generator, leaf: Any) -> Any:
    dtype: Any = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
    shape = tuple(leaf.shape)
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return _keys(rng, leaf)
    if jax.numpy.issubdtype(dtype, np.bool_):
        return rng.integers(0, 2, shape).astype(bool)
    if jax.numpy.issubdtype(dtype, np.integer):
        known = np.asarray([0, 1]) if isinstance(leaf, jax.ShapeDtypeStruct) or not leaf.size else np.asarray(leaf)
        return rng.integers(int(known.min()), int(known.max()) + 1, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _param_leaf(rng: np.random.Generator, leaf: Any) -> Any:
    """Matrices keep the scale of what they multiply; vectors (norm scales, biases) are near 1 and all different."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if len(leaf.shape) < 2:
        return (1.0 + 0.1 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)
    return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(leaf.dtype)


def _state_leaf(leaf: Any, seed: int) -> Any:
    """Counters start at 0, variances must be positive, keys differ by seed."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _keys(np.random.default_rng(seed), leaf)
    return (np.ones if jax.numpy.issubdtype(leaf.dtype, np.inexact) else np.zeros)(leaf.shape, leaf.dtype)


def _keys(rng: np.random.Generator, leaf: Any) -> Any:
    kind = str(jax.random.key_impl(leaf)) if isinstance(leaf, jax.Array) else str(leaf.dtype).split("<")[-1].rstrip(">")
    name = {"fry": "threefry2x32", "urbg": "unsafe_rbg"}.get(kind, kind)
    return jax.random.split(jax.random.key(int(rng.integers(2**31)), impl=name),
                            tuple(leaf.shape) or 1).reshape(leaf.shape)
