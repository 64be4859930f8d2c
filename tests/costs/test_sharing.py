"""Devices that share cores are faster the more of them wait."""

from hypothesis import given
from hypothesis import strategies as st

from planner.costs.sharing import sharing_speed


@given(st.integers(2, 64), st.floats(1, 64), st.floats(1, 64), st.floats(1, 64))
def test_speed_grows_from_all_working_to_one_alone(devices, alone, idle, more):
    alone, idle = min(alone, devices), min(idle, devices)
    assert sharing_speed(1, devices, alone) == 1
    assert abs(sharing_speed(devices, devices, alone) - alone) < 1e-9 * alone
    assert 1 <= sharing_speed(idle, devices, alone) <= alone
    assert sharing_speed(idle, devices, alone) <= sharing_speed(max(idle, more), devices, alone) + 1e-12
    assert sharing_speed(idle, devices, alone) <= idle + 1e-9  # no more than all cores


def test_one_device_shares_with_nobody():
    assert sharing_speed(1, 1, 1) == 1
