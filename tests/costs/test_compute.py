"""The roofline by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.compute import is_memory_bound, op_time_s
from tests.costs.machines import DEVICE


def test_by_hand() -> None:
    # 1000 FLOP in bfloat16 at 0.5 * 200 FLOP/s take 10 s; 50 B at 10 B/s take 5 s; launching takes 1 s.
    assert op_time_s(1000, 50, "bfloat16", DEVICE) == pytest.approx(11)
    # In float32 the default rate holds: 0.5 * 100 FLOP/s.
    assert op_time_s(1000, 50, "float32", DEVICE) == pytest.approx(21)
    # 300 B take 30 s: bound by memory.
    assert op_time_s(1000, 300, "bfloat16", DEVICE) == pytest.approx(31)
    assert is_memory_bound(1000, 300, "bfloat16", DEVICE) and not is_memory_bound(1000, 50, "bfloat16", DEVICE)
    # Fused: no launch.
    assert op_time_s(1000, 50, "bfloat16", DEVICE, fused=True) == pytest.approx(10)


def test_transcendentals_count_only_where_a_profile_gives_their_rate() -> None:
    slow = dataclasses.replace(DEVICE, transcendentals_per_s=2.0)
    # 40 elements at 2 a second: 20 s on top of the 10 s of arithmetic.
    assert op_time_s(1000, 50, "bfloat16", slow, transcendentals=40) == pytest.approx(31)
    assert op_time_s(1000, 50, "bfloat16", DEVICE, transcendentals=40) == pytest.approx(11)


@given(st.floats(0, 1e15), st.floats(0, 1e12), st.integers(2, 64))
def test_sharing_work_over_devices_helps_but_never_more_than_by_their_number(flops: float, size: float, n: int) -> None:
    whole, share = (op_time_s(flops / k, size / k, "bfloat16", DEVICE) for k in (1, n))
    assert whole / n <= share * (1 + 1e-12) and share <= whole * (1 + 1e-12)
