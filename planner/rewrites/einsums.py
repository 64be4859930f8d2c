"""Matrix products as einsums: a letter per dimension, so that products of products can be paired otherwise.

In: operators `dot_general` and arrays. Out: letters, products of arrays.
"""

from collections.abc import Mapping, Sequence
from string import ascii_letters
from typing import Any

import jax
import jax.numpy as jnp

from planner.core.graph import Op

Letters = tuple[str, ...]


def numbers(op: Op) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]:
    """JAX's dimension numbers: ((contracted of the left, of the right), (batch of the left, of the right))."""
    return op.params["dimension_numbers"]


def names_algorithm(op: Op) -> bool:
    """Whether the arithmetic of a product is given by name, and with it the dtypes that it takes."""
    return isinstance(op.params["precision"], jax.lax.DotAlgorithmPreset | jax.lax.DotAlgorithm)


def product_letters(op: Op, left: Letters, right_rank: int, taken: str) -> tuple[Letters, Letters]:
    """Letters of the right operand and of the result of a `dot_general` whose left operand has the given ones; new ones
    are none of `taken`."""
    (left_contracted, right_contracted), (left_batch, right_batch) = numbers(op)
    free = iter(c for c in ascii_letters if c not in taken and c not in left)
    right = [""] * right_rank
    for d, e in zip((*left_batch, *left_contracted), (*right_batch, *right_contracted), strict=True):
        right[e] = left[d]
    right = [c or next(free) for c in right]
    result = [left[d] for d in left_batch]
    result += [c for d, c in enumerate(left) if d not in left_batch and d not in left_contracted]
    result += [c for e, c in enumerate(right) if e not in right_batch and e not in right_contracted]
    return tuple(right), tuple(result)


def free_dims(op: Op, side: int, rank: int) -> tuple[int, ...]:
    """Dimensions of an operand that are neither contracted nor batch: rows of the left (0), columns of the right (1).
    """
    contracted, batch = (of[side] for of in numbers(op))
    return tuple(d for d in range(rank) if d not in contracted and d not in batch)


def product(params: Mapping[str, Any], left: jax.Array, right: jax.Array, contracted: Sequence[Sequence[int]],
            batch: Sequence[Sequence[int]]) -> jax.Array:
    """A product of the precision and dtype of another: `contracted` and `batch` hold dimensions of the left operand,
    then of the right."""
    (a, b), (c, d) = (tuple(map(tuple, of)) for of in (contracted, batch))
    return jax.lax.dot_general(left, right, ((a, b), (c, d)), precision=params["precision"],
                               preferred_element_type=params["preferred_element_type"])


def dot(params: Mapping[str, Any], left: jax.Array, right: jax.Array) -> jax.Array:
    """A product like another: of its dimension numbers, precision and dtype."""
    return jax.lax.dot_general(left, right, params["dimension_numbers"], precision=params["precision"],
                               preferred_element_type=params["preferred_element_type"])


def einsum(params: Mapping[str, Any], letters: Sequence[Letters], result: Letters, *arrays: jax.Array) -> jax.Array:
    """An einsum with the precision and dtype of a product."""
    text = ",".join("".join(of) for of in letters) + "->" + "".join(result)
    return jnp.einsum(text, *arrays, precision=params["precision"],
                      preferred_element_type=params["preferred_element_type"])
