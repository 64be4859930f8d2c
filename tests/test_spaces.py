"""Which submeshes a search looks at."""

import planner
from planner.core.pins import Pins
from planner.spaces import mesh_spaces


def sizes(nodes: int, **pinned: int) -> list[int]:
    return [s.submesh.device_count for s in mesh_spaces(planner.cluster("dgx-h100", nodes=nodes), Pins(**pinned))]


def test_of_few_devices_stages_of_one_are_looked_for() -> None:
    assert sizes(8) == [1, 2, 4, 8, 16, 32, 64]
    assert sizes(32)[0] == 1


def test_of_many_devices_none_are_looked_for_on_a_part_that_is_too_small_to_matter() -> None:
    assert sizes(64) == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert sizes(2048) == [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]


def test_who_asks_for_many_stages_gets_smaller_ones() -> None:
    assert sizes(2048, stages=128)[0] == 32
    assert sizes(2048, stages=1) == [16384]
