"""The roofline by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import ConvolutionRates, MemoryLevel
from planner.costs.compute import (
    FILTER_GRADIENT,
    FORWARD,
    INPUT_GRADIENT,
    convolution_efficiency,
    memory_s,
)
from tests.costs.machines import DEVICE


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_traffic_goes_through_the_caches_first(size: float, more: float) -> None:
    """40 B at 20 B/s, then 60 B at 15 B/s, and the rest at the 10 B/s of device memory."""
    device = dataclasses.replace(DEVICE, caches=(MemoryLevel("L1", 40, 20.0), MemoryLevel("L2", 100, 15.0)))
    assert [memory_s(n, device) for n in (20, 40, 100, 200)] == pytest.approx([1, 2, 6, 16])
    assert memory_s(size, device) <= memory_s(size + more, device) <= memory_s(size, device) + more / 10 + 1e-6


def test_convolutions_by_kind_and_width() -> None:
    device = dataclasses.replace(DEVICE, convolutions=ConvolutionRates(0.8, 0.5, 0.25, 16))
    features = np.array([64.0, 16.0, 4.0])
    # 16 features are wide enough; 4 reach 4/16 of it.
    assert convolution_efficiency(FORWARD, features, device).tolist() == pytest.approx([0.8, 0.8, 0.2])
    assert convolution_efficiency(INPUT_GRADIENT, features, device).tolist() == pytest.approx([0.5, 0.5, 0.125])
    assert convolution_efficiency(FILTER_GRADIENT, features, device).tolist() == pytest.approx([0.25, 0.25, 0.0625])
    # A profile without them: as matmuls.
    assert convolution_efficiency(FILTER_GRADIENT, features, DEVICE).tolist() == [1, 1, 1]
