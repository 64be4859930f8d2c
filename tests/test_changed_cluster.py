"""What is left of a cluster, and who its devices were."""

from dataclasses import replace

import pytest

from planner import profiles
from planner.changed_cluster import without_nodes
from planner.errors import MeshError

FOUR = replace(profiles.cluster("p3.16xlarge", nodes=4), devices_per_node=4)
ONE = replace(FOUR, nodes=1)


def test_a_lost_node_leaves_the_others_with_their_numbers() -> None:
    found = without_nodes(FOUR, ["node1"])
    assert (found.cluster.nodes, found.cluster.devices_per_node) == (3, 4)
    assert found.was == (*range(4), *range(8, 16))
    assert found.notes == ()


def test_a_lost_device_takes_its_node_along() -> None:
    found = without_nodes(FOUR, ["node3.gpu2", "node3.gpu0"])
    assert found.was == tuple(range(12))
    assert "node3 is left out whole: without gpu0, gpu2" in found.notes[0]


@pytest.mark.parametrize(("lost", "was"), [(["node0.gpu1"], (0, 2)), (["node0.gpu0", "node0.gpu3"], (1, 2)),
                                           (["node0.gpu0", "node0.gpu1", "node0.gpu3"], (2,))])
def test_the_only_node_goes_on_with_a_power_of_two(lost: list[str], was: tuple[int, ...]) -> None:
    found = without_nodes(ONE, lost)
    assert found.was == was
    assert (found.cluster.nodes, found.cluster.devices_per_node) == (1, len(was))
    assert bool(found.notes) == (4 - len(lost) > len(was))


def test_more_and_fewer_nodes() -> None:
    assert without_nodes(FOUR, [], 5).was == (*range(16), *[None] * 4)
    assert without_nodes(FOUR, ["node0"], 4).was == (*range(4, 16), *[None] * 4)
    found = without_nodes(FOUR, [], 2)
    assert found.was == tuple(range(8))
    assert found.notes == ("node2, node3 not used",)


@pytest.mark.parametrize(("lost", "nodes", "says"), [
    (["node4"], None, "no node4"), (["node0.gpu4"], None, "no node0.gpu4"), (["gpu0"], None, "no node and no device"),
    (["node0", "node1", "node2", "node3"], None, "no node is left"), ([], 0, "no devices")])
def test_what_is_not_there_is_refused(lost: list[str], nodes: int | None, says: str) -> None:
    with pytest.raises(MeshError, match=says):
        without_nodes(FOUR, lost, nodes)


def test_what_is_left_of_a_mixture_or_a_torus_has_to_be_said() -> None:
    mixed = replace(FOUR, parts=(ONE, ONE))
    with pytest.raises(MeshError, match="several types of devices"):
        without_nodes(mixed, ["node0"])
    assert without_nodes(mixed, []).was == tuple(range(8))
