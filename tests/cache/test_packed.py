"""Arrays as bytes: the same again, and an error for other bytes."""

import numpy as np
import pytest

from planner.cache.packed import PackedError, pack, unpack

ARRAYS = {"numbers": np.arange(12.0).reshape(3, 4), "nothing": np.zeros((0, 3), np.uint8),
          "flags": np.array([True, False]), "one": np.array(3, np.int16)}


def test_the_same_again() -> None:
    header, arrays = unpack(pack({"a": ["b\n", 1]}, ARRAYS))
    assert header == {"a": ["b\n", 1]}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)
        arrays[name] += True  # may be written to
    assert pack({}, ARRAYS) == pack({}, ARRAYS)


@pytest.mark.parametrize("content", [
    b"", b"x\n", b"[1, 2]\n", b"[{}, 5]\n", b"\xff\n", pack({}, ARRAYS)[:-1], pack({}, ARRAYS) + b"1",
    b'[{}, [["a", "|O", [1]]]]\n12345678', b'[{}, [["a", "<f8", [-1]]]]\n', b'[{}, [["a", "<f8", ["q"]]]]\n',
    b'[{}, [["a", "<f8", [1]]]]\n1234'], ids=range(11))
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(PackedError):
        unpack(content)


def test_objects_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="'a' is an array of object"):
        pack({}, {"a": np.array([None])})
