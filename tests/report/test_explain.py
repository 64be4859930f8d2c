from dataclasses import replace

import pytest

from planner.core.alternative import Alternative
from planner.report import breakdown, units
from planner.report.explain import explain
from tests.report.records import eight_devices, sixty_four_devices, two_devices, vee

RECORDS = (two_devices(), eight_devices(), sixty_four_devices())


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.device_count))
def test_sections_and_width(record):
    text = explain(record, 90)
    assert max(map(len, text.splitlines())) <= 90
    for title in ("Where the time goes", "What sets the pace", "What the memory holds", "How sure this is"):
        assert title in text
    assert "\u00a0" not in text


def test_numbers():
    text = explain(sixty_four_devices())
    assert "stage 8 (layers 24–26) works" in text
    assert "24 layers of 48 run their forward a second time" in text
    assert "its activations are those of 16 microbatches in flight" in text
    assert "1.12 × this plan's time" in text
    assert "data: no time, 48.0 GB on a device (needs 48.0 GB a device, 16.0 GB there)." in text


def test_memory_of_stages_that_share_devices_is_told_together():
    record = vee()
    said = " ".join(explain(record).split())
    assert record.peak_bytes == max(record.rank_bytes) == sum(record.stages[s].memory.total_bytes for s in (0, 7))
    assert f"fullest is where stages 0, 7 share: {units.size(record.peak_bytes)} of 16.0 GB" in said
    assert "those of 8 and 1 microbatches in flight" in said


def test_a_single_stage_has_no_bubble():
    text = explain(two_devices())
    assert "bubble" not in text and "wait" not in text


def test_alternatives_say_what_they_cost_or_what_is_missing():
    step = eight_devices().step_time_s
    seen = (Alternative("microbatches", "16 microbatches", 1.25 * step, 5 * 10**9, 0, "2 stages, 1f1b"),
            Alternative("stages", "1 stage", None, None, 3 * 10**9),
            Alternative("mesh", "mesh data=4 for stage 1", None, None, note="all else as it is"))
    text = " ".join(explain(replace(eight_devices(), alternatives=seen)).split())
    assert f"16 microbatches: {units.seconds(1.25 * step)}, 1.25 × this plan's time, about 5.00 GB on a device " in text
    assert "1 stage: does not fit, by 3.00 GB on a device." in text
    assert "mesh data=4 for stage 1: nothing was found that fits (all else as it is)." in text
    assert "What other counts and meshes would cost" not in explain(eight_devices())


def test_headroom_and_what_sets_the_peak():
    record = eight_devices()
    text = " ".join(explain(record).split())
    usable = record.cluster.device.usable_bytes
    assert f"{units.size(usable - record.peak_bytes)} are left of what a plan may use ({units.size(usable)}" in text
    kinds = dict(zip(breakdown.MEMORY_KINDS, breakdown.memory_parts(record.stages[0]), strict=True))
    assert f"{max(kinds, key=kinds.get)} set the peak" in text


def test_the_stage_that_sets_the_pace_names_operators_and_communication():
    text = " ".join(explain(eight_devices()).split())
    assert "its dearest communication: all-reduce for dot_general model.py:18 (mlp)" in text


def test_proven_stages_are_said_to_be():
    record = replace(eight_devices(), stages=tuple(replace(s, gap=0.0) for s in eight_devices().stages))
    assert "proven best for its mesh" in explain(record)
    assert "stage 0 are not proven best" in explain(eight_devices())


def test_warnings_are_repeated():
    assert "no rule for 'eigh'" in explain(eight_devices())
