"""What is left of a cluster, and who its devices were."""

from dataclasses import replace
from itertools import product

import pytest

import planner
from planner import profiles
from planner.changed_cluster import without_nodes
from planner.core.hardware import Cluster, Link
from planner.core.mixed import mixed
from planner.costs.torus import in_line, left_of, slice_of
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


TWO_TYPES = mixed([replace(FOUR, name="a", nodes=2), replace(FOUR, name="b", nodes=3, devices_per_node=2)],
                  Link(7e9, 1e-5), "two")


def test_a_lost_node_of_a_mixture_makes_its_part_smaller() -> None:
    found = without_nodes(TWO_TYPES, ["node3", "node0.gpu1"])
    assert [(p.name, p.nodes) for p in found.cluster.parts] == [("a", 1), ("b", 2)]
    assert found.was == (4, 5, 6, 7, 8, 9, 12, 13)
    assert (found.cluster.between, found.cluster.name) == (Link(7e9, 1e-5), "two")
    assert found.notes == ("node0 is left out whole: without gpu1 it is not like the other nodes",)
    assert [TWO_TYPES.device_name(d) for d in (7, 8, 13)] == ["node1.gpu3", "node2.gpu0", "node4.gpu1"]
    same = without_nodes(TWO_TYPES, [])
    assert same.cluster == TWO_TYPES and same.was == tuple(range(14))


def test_a_mixture_of_one_part_is_none() -> None:
    found = without_nodes(TWO_TYPES, ["node0", "node1"])
    assert found.cluster == TWO_TYPES.parts[1] and found.was == tuple(range(8, 14))
    assert "nothing is left" in found.notes[0] and "one type now" in found.notes[1]
    cut = without_nodes(mixed([ONE, replace(ONE, name="b")]), ["node0.gpu0", "node0.gpu1", "node1"])
    assert (cut.cluster.device_count, cut.was) == (2, (2, 3))


def test_parts_are_called_by_the_nodes_they_have_now() -> None:
    found = without_nodes(planner.cluster("dgx-a100:3+dgx-h100:2"), ["node1"])
    assert found.cluster.name == "dgx-a100:2+dgx-h100:2"
    assert found.cluster == planner.cluster("dgx-a100:2+dgx-h100:2")


@pytest.mark.parametrize(("lost", "nodes", "says"), [
    (["node5"], None, "no node5 in 2 nodes of 4 devices and 3 nodes of 2"), (["node2.gpu2"], None, "no node2.gpu2"),
    ([f"node{n}" for n in range(5)], None, "no node is left"), (["node0"], 4, "several types of devices")])
def test_what_is_not_there_of_a_mixture_is_refused(lost: list[str], nodes: int | None, says: str) -> None:
    with pytest.raises(MeshError, match=says):
        without_nodes(TWO_TYPES, lost, nodes)


SLICE = replace(profiles.cluster("tpu-v5e", nodes=4))  # 8 chips a host, 4 x 8


@pytest.mark.parametrize(("lost", "nodes", "size", "first"), [
    (["node0"], None, 2, 16), (["node3"], None, 2, 0), (["node1", "node2"], None, 1, 0), (["node2.gpu7"], None, 2, 0),
    (["node0"], 1, 1, 8), ([], 2, 2, 0), (["node0", "node1.gpu3", "node2", "node3"], None, 1, 12)])
def test_of_a_torus_the_largest_slice_that_is_whole_goes_on(lost: list[str], nodes: int | None, size: int, first: int
                                                            ) -> None:
    found = without_nodes(SLICE, lost, nodes)
    count = found.cluster.device_count
    assert found.cluster.nodes == size and found.was == tuple(range(first, first + count))
    assert count == (size * 8 if first != 12 else 4) and slice_of(found.cluster)
    gone = {int(name[4]) for name in lost if "." not in name}
    assert not gone & {w // 8 for w in found.was}  # type: ignore[operator]


def test_slices_that_are_left_are_named() -> None:
    with pytest.raises(MeshError, match=r"3 hosts .*no slice(.|\n)*: 2 hosts, 4 x 4 chips, from chip 16 on; 2 x 4"):
        without_nodes(SLICE, ["node0"], 3)
    with pytest.raises(MeshError, match="no slice of 'tpu-v5e' is left"):
        without_nodes(SLICE, [f"node{n}" for n in range(4)])
    assert "8 chips that are left are not used" in without_nodes(SLICE, ["node0"]).notes[0]


@pytest.mark.parametrize(("name", "nodes"), [("tpu-v4", 16), ("tpu-v4", 4), ("tpu-v5p", 8), ("tpu-v5e", 8),
                                             ("tpu-v6e", 2)])
def test_a_slice_that_is_left_lies_as_it_would_by_itself(name: str, nodes: int) -> None:
    """Neighbours in it were neighbours before: chips by their coordinates, in both."""
    old = profiles.cluster(name, nodes=nodes)
    for left in left_of(old, {0}):
        before, now = coordinates(old), coordinates(left.cluster)
        moved = [before[left.first + n] for n in range(len(now))]
        for a in range(len(now)):
            for b in range(a):
                assert apart(now[a], now[b]) == apart(moved[a], moved[b])


def coordinates(cluster: Cluster) -> list[tuple[int, ...]]:
    """Where chips lie, by the way that plans number them."""
    grid = list(product(*(range(n) for n in slice_of(cluster))))
    order = in_line(cluster, grid)
    assert order is not None
    return [grid[n] for n in order]


def apart(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))
