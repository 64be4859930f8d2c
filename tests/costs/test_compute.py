"""The roofline by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import ConvolutionRates
from planner.costs.compute import (
    FILTER_GRADIENT,
    FORWARD,
    INPUT_GRADIENT,
    convolution_efficiency,
    is_memory_bound,
    op_time_s,
)
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


def test_convolutions_by_kind_and_width() -> None:
    device = dataclasses.replace(DEVICE, convolutions=ConvolutionRates(0.8, 0.5, 0.25, 16))
    features = np.array([64.0, 16.0, 4.0])
    # 16 features are wide enough; 4 reach 4/16 of it.
    assert convolution_efficiency(FORWARD, features, device).tolist() == pytest.approx([0.8, 0.8, 0.2])
    assert convolution_efficiency(INPUT_GRADIENT, features, device).tolist() == pytest.approx([0.5, 0.5, 0.125])
    assert convolution_efficiency(FILTER_GRADIENT, features, device).tolist() == pytest.approx([0.25, 0.25, 0.0625])
    # A profile without them: as matmuls.
    assert convolution_efficiency(FILTER_GRADIENT, features, DEVICE).tolist() == [1, 1, 1]
