from dataclasses import replace

import pytest

from planner.report import tables
from tests.report.records import eight_devices, sixty_four_devices, two_devices

RECORDS = (two_devices(), eight_devices(), sixty_four_devices())


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.device_count))
def test_fits_its_width_and_says_everything(record, width):
    text = tables.render(record, width)
    assert max(map(len, text.splitlines())) <= width
    assert text == tables.render(record, width)
    assert "\x1b" not in text
    for part in (record.model_name, record.cluster.name, "stages", "time on each device", "memory on each device",
                 "beside standard recipes", "even pipeline", "1.05"):
        assert part in text
    for title in ("params", "izer", "grads", "vations", "flight", "compute", "reshard", "update", "busy", "recompute"):
        assert title in text  # no header is cut


def test_numbers_are_those_of_the_plan():
    first, second = eight_devices().stages
    first = replace(first, memory=replace(first.memory, params_bytes=123_000_000))
    text = tables.render(replace(eight_devices(), stages=(first, second)), 140)
    assert "123" in text.split("memory on each device, MB")[1]


def test_equal_neighbours_share_a_row():
    text = tables.render(sixty_four_devices(), 140)
    assert "0–7   0–23 (3 each)   0–31 (1×4 each)" in text
    assert " 9–15      247" in text


def test_layers_that_make_selected_activations_again_are_counted():
    first, second = eight_devices().stages
    some, every = ((n, (1, 2)) for n in (0, 1)), ((n, (1, 2)) for n in range(*second.layers))
    stages = (replace(first, selected=tuple(some), recompute=(2,)), replace(second, selected=tuple(every)))
    text = " ".join(tables.render(replace(eight_devices(), stages=stages), 200).split())
    assert f"1 of {first.layers[1]}, selected in 2 of {first.layers[1]}" in text and " selected " in text


def test_warnings_pins_and_pruning_are_shown():
    text = tables.render(eight_devices(), 80)
    assert "warning: no rule for 'eigh': replicated (model.py:42 (head))" in text
    assert "microbatches = 8" in text
    assert "stage slower than the best found: 812" in text


def test_too_much_memory_is_loud():
    small = replace(two_devices().cluster, device=replace(two_devices().cluster.device, memory_bytes=50_000_000))
    assert "TOO MUCH" in tables.render(replace(two_devices(), cluster=small), 140)


def test_a_baseline_without_a_time_says_why():
    assert "needs 48.0 GB a device, 16.0 GB there" in tables.render(sixty_four_devices(), 140)
