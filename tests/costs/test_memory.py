"""Bytes of elements, shards and live intervals."""

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.graph import Value
from planner.costs.memory import Live, itemsize, peak, shard_bytes, value_bytes


@pytest.mark.parametrize(("dtype", "expected"), [
    ("float32", 4), ("bfloat16", 2), ("float16", 2), ("float8_e4m3fn", 1), ("float8_e5m2", 1), ("int4", 1), ("bool", 1),
    ("int32", 4), ("complex64", 8), ("key<fry>", 8), ("key<rbg>", 16)])
def test_itemsize(dtype: str, expected: int) -> None:
    assert itemsize(dtype) == expected


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_are_as_large_as_their_data(implementation: str) -> None:
    key = jax.random.key(0, impl=implementation)
    assert itemsize(str(key.dtype)) == jax.random.key_data(key).nbytes


@pytest.mark.parametrize("dtype", ["float33", "key<other>", ""])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        itemsize(dtype)


def test_names_agree_with_numpy() -> None:
    for dtype in (np.float64, np.uint8, np.int16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3b11fnuz):
        assert itemsize(np.dtype(dtype).name) == np.dtype(dtype).itemsize


def test_shard_bytes() -> None:
    value = Value((8, 6), "bfloat16")
    assert value_bytes(value) == 96
    assert shard_bytes(value, ((), ()), (2, 4)) == 96
    assert shard_bytes(value, ((0, 1), ()), (2, 4)) == 12
    # 6 over 4 devices: the largest shard has 2 of them. 4 x 2 elements of 2 bytes.
    assert shard_bytes(value, ((0,), (1,)), (2, 4)) == 16
    assert shard_bytes(Value((), "float32"), (), (8,)) == 4


def test_peak_by_hand() -> None:
    # Over time 0 to 4 in use: 5, 5 + 7, 7 + 1, 1.
    assert peak([Live(0, 2, 5), Live(1, 3, 7), Live(2, 4, 1)]) == (12, 1)
    # Half-open: what ends as another starts isn't alive with it. An empty interval is never alive.
    assert peak([Live(0, 1, 5), Live(1, 2, 5), Live(3, 3, 100)]) == (5, 0)
    assert peak([]) == (0, 0)


intervals = st.lists(st.builds(lambda start, length, size: Live(start, start + length, size),
                               st.integers(0, 20), st.integers(0, 8), st.integers(0, 9)))


@given(intervals)
def test_peak_is_the_largest_sum_at_any_time(lives: list[Live]) -> None:
    by_time = [sum(x.bytes for x in lives if x.start <= t < x.end) for t in range(30)]
    most, when = peak(lives)
    assert most == max(by_time) and (most == 0 or by_time.index(most) == when)
