from dataclasses import replace

import pytest

from planner.core.plan import TimeParts
from planner.report import breakdown
from tests.report.records import eight_devices, sixty_four_devices, two_devices

RECORDS = (two_devices(), eight_devices(), sixty_four_devices())


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.device_count))
def test_device_seconds_add_up_to_the_step(record):
    assert sum(breakdown.device_seconds(record).values()) == pytest.approx(record.device_count * record.step_time_s)
    assert sum(breakdown.device_shares(record).values()) == pytest.approx(1)


def test_device_seconds_by_hand():
    # two stages of four devices, two microbatches; 4*2*(1+3) compute, 4*(0.5+0) update; step 10 s on 8 devices
    one, two = eight_devices().stages
    one = replace(one, time=TimeParts(compute_s=1.0, update_s=0.5), send_s=0.25)
    two = replace(two, time=TimeParts(compute_s=3.0), send_s=0.0)
    record = replace(eight_devices(), stages=(one, two), microbatches=2, step_time_s=10.0)
    assert breakdown.device_seconds(record) == {
        "compute": 32.0, "collectives": 0.0, "resharding": 0.0, "sending": 2.0, "gradient sync": 0.0, "update": 2.0,
        "idle": 44.0}
    assert breakdown.bottleneck(record).index == 1


def test_a_single_stage_is_never_idle():
    assert breakdown.device_shares(two_devices())["idle"] == pytest.approx(0, abs=1e-9)


def test_rates():
    record = replace(two_devices(), step_time_s=2.0, model_flops=8 * 10**12)
    assert breakdown.flops_per_device_s(record) == 2e12
    assert breakdown.mfu(record) == pytest.approx(2 / 125)
    assert breakdown.peak(record).dtype == "bfloat16"
    assert breakdown.peak(replace(record, compute_dtype="int7")).flops_per_s == dict(
        record.cluster.device.peak_flops_per_s)["default"]


def test_collectives_are_added_over_stages_and_microbatches():
    record = eight_devices()
    rows = breakdown.collectives_by_cause(record)
    assert [row[4] for row in rows] == sorted((row[4] for row in rows), reverse=True)
    gather = next(row for row in rows if row[0] == "all-gather")
    assert gather[:4] == ("all-gather", "data", "blocks/0/wq", 2 * record.microbatches)
    assert gather[4] == pytest.approx(record.microbatches * sum(s.collectives[1].time_s for s in record.stages))
