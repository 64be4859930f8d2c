from dataclasses import replace

import pytest

from planner.core.hardware import Device
from planner.report.progress import HEADER, Amount, Memory, Progress, rates
from tests.report.records import eight_devices

PEAK = Device("gpu", (("bfloat16", 4e12), ("default", 1e12)), 1.0, 10**9, 1e9, 1e-6)


def record(dtype: str = "bfloat16"):
    plan = eight_devices()
    return replace(plan, model_flops=8 * 10**12, compute_dtype=dtype, cluster=replace(plan.cluster, device=PEAK))


def test_rates_are_those_of_one_device_against_the_peak_of_the_dtype():
    """8e12 FLOPs on 8 devices in 0.5 s: 2 TFLOP/s each, half of the peak in bfloat16; 1,000 tokens in 0.5 s."""
    found = rates(record(), 0.5, Amount(1_000, "tokens"), Memory(10**9, measured=True))
    assert (found.per_s, found.flops_per_device_s, found.mfu) == (2_000, 2e12, 0.5)
    assert rates(record("float32"), 0.5, Amount(1, "tokens"), Memory(1, measured=True)).mfu == 2.0


def test_utilisation_is_unknown_where_other_devices_run():
    assert rates(record(), 0.5, Amount(1, "tokens"), Memory(1, measured=True), as_planned=False).mfu is None


@pytest.mark.parametrize(("memory", "text"), [(Memory(2 * 10**9, measured=True), "2.00 GB"),
                                              (Memory(2 * 10**9, measured=False), "2.00 GB*")])
def test_a_line_has_everything_and_stands_under_its_header(memory, text):
    found = Progress(41, 2.5, 0.51, rates(record(), 0.5, Amount(64, "examples"), memory))
    line = str(found)
    assert line.split() == ["41", "2.500000", "510", "ms", "128", "examples/s", "2.00", "TFLOP/s", "50", "%",
                            *text.split()]
    for title, end in (("step", "41"), ("loss", "2.500000"), ("time", "510 ms"), ("rate", "128 examples/s"),
                       ("a device", "2.00 TFLOP/s"), ("MFU", "50 %")):
        assert HEADER.index(title) + len(title) == line.index(end) + len(end)
    assert found.brief == f"step 41 · loss 2.5000 · 500 ms a step · 128 examples/s · 2.00 TFLOP/s a device · " \
                          f"MFU 50 % · memory {text}"


def test_what_starting_a_step_takes_is_told_as_part_of_the_step():
    found = Progress(1, 1.0, 0.5, rates(record(), 0.5, Amount(1, "tokens"), Memory(1, measured=True)), host_s=0.01)
    assert found.host == "starting a step's programs took 10.0 ms of processor time, 2 % of a step"


def test_what_is_not_known_is_said_so():
    found = Progress(0, None, 1.0, rates(record(), 1.0, Amount(1, "tokens"), Memory(1, measured=True),
                                         as_planned=False), note="the loss is not finite")
    assert "–" in str(found) and "n/a" in str(found) and str(found).endswith("  the loss is not finite")
