"""Between the dtype names that a graph writes (`"bfloat16"`, `"key<fry>"`) and JAX's dtypes."""

from functools import cache
from types import MappingProxyType
from typing import Any

import jax

from planner.core.graph import Value

_KEY_IMPLEMENTATIONS = MappingProxyType({"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"})


@cache
def dtype_of(name: str) -> Any:
    """The dtype of that name.

    Raises:
      TypeError: if there is none.
    """
    if name.startswith("key<"):
        return jax.eval_shape(lambda: jax.random.key(0, impl=key_implementation(name))).dtype
    return jax.numpy.dtype(name)


def key_implementation(name: str) -> str:
    """What `jax.random` calls the implementation of keys of that dtype: `"threefry2x32"` for `"key<fry>"`."""
    return _KEY_IMPLEMENTATIONS.get(name[4:-1], name[4:-1])


@cache
def name_of_dtype(dtype: Any) -> str:
    """What a graph writes for it (numpy takes a while to say)."""
    return str(dtype)


@cache
def is_inexact(name: str) -> bool:
    """Whether values of that dtype can have gradients (floating or complex)."""
    return not name.startswith("key<") and bool(jax.numpy.issubdtype(jax.numpy.dtype(name), jax.numpy.inexact))


def struct_of(value: Value) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a value, as JAX takes them."""
    return jax.ShapeDtypeStruct(value.shape, dtype_of(value.dtype))
