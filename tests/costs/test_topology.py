"""Submeshes and logical meshes: what is enumerated, and which link each axis gets."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import Link, Submesh
from planner.costs.topology import (
    factorisations,
    logical_mesh,
    logical_meshes,
    searched_submeshes,
    stage_link,
    submeshes,
)
from planner.errors import MeshError
from tests.costs.machines import FAST, SLOW, cluster


def test_submeshes_are_one_node_powers_of_two_and_whole_nodes() -> None:
    assert [(s.nodes, s.devices_per_node) for s in submeshes(cluster(nodes=3, devices=8))] == [
        (1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (3, 8)]


def test_a_node_of_six_is_a_submesh_too() -> None:
    assert [(s.nodes, s.devices_per_node) for s in submeshes(cluster(nodes=2, devices=6))] == [
        (1, 1), (1, 2), (1, 4), (1, 6), (2, 6)]


@pytest.mark.parametrize(("nodes", "searched"), [
    (3, [1, 2, 3]), (4, [1, 2, 4]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 5, 10]), (32, [1, 2, 4, 8, 16, 32])])
def test_of_many_nodes_those_that_divide_them_are_searched(nodes: int, searched: list[int]) -> None:
    found = searched_submeshes(cluster(nodes=nodes, devices=8))
    assert [s.nodes for s in found] == [1, 1, 1, *searched]


def test_submeshes_searched_grow_with_the_logarithm_of_the_nodes() -> None:
    sizes = [len(searched_submeshes(cluster(nodes=2**k, devices=8))) for k in range(3, 12)]
    assert [b - a for a, b in zip(sizes, sizes[1:], strict=False)] == [1] * 8


def test_one_device_has_one_mesh_without_axes() -> None:
    (only,) = logical_meshes(cluster(), Submesh(1, 1))
    assert only.shape == () and only.links == ()


def test_within_a_node_order_does_not_matter() -> None:
    assert [m.shape for m in logical_meshes(cluster(), Submesh(1, 8))] == [(8,), (2, 4)]
    assert [m.shape for m in logical_meshes(cluster(), Submesh(1, 8), max_dims=3)] == [(8,), (2, 4), (2, 2, 2)]


def test_across_nodes_both_orders_are_kept() -> None:
    shapes = {m.shape for m in logical_meshes(cluster(nodes=2), Submesh(2, 8))}
    assert shapes == {(16,), (2, 8), (4, 4), (8, 2)}


@pytest.mark.parametrize(("shape", "expected"), [
    # Eight groups of two devices, one in each node: the wire's 8 B/s is shared by eight.
    ((2, 8), (Link(1.0, 2.0), FAST)),
    # Groups of four at stride 4: two members in each node, four groups a node share the wire.
    ((4, 4), (Link(2.0, 2.0), FAST)),
    # Groups of eight at stride 2: two groups share the wire, each twice-four members inside a node.
    ((8, 2), (Link(4.0, 2.0), FAST)),
    # One ring through both nodes: it has the wire for itself, 8 B/s, slower than 100 B/s inside.
    ((16,), (Link(8.0, 2.0),)),
])
def test_axis_links_of_two_nodes_of_eight(shape: tuple[int, ...], expected: tuple[Link, ...]) -> None:
    assert logical_mesh(cluster(nodes=2), Submesh(2, 8), shape).links == expected


def test_a_wire_faster_than_the_node_does_not_speed_up_an_axis_that_is_partly_inside() -> None:
    machine = cluster(nodes=2, devices=2, intra=Link(3.0, 0.5), inter=Link(8.0, 2.0))
    # One ring of four devices through both nodes: min(8, 3) B/s, and the longer latency of the two.
    assert logical_mesh(machine, Submesh(2, 2), (4,)).links == (Link(3.0, 2.0),)


def test_a_node_that_is_no_multiple_of_the_axis() -> None:
    # Two nodes of three devices as (3, 2): groups {0,1} {2,3} {4,5}; only {2,3} crosses, and has the wire alone.
    links = logical_mesh(cluster(nodes=2, devices=3), Submesh(2, 3), (3, 2)).links
    assert links[1] == SLOW
    # Along the first axis groups {0,2,4} {1,3,5} both cross: 8 / 2 B/s.
    assert links[0] == Link(4.0, 2.0)


@given(st.integers(1, 4), st.sampled_from([1, 2, 4, 6, 8]), st.integers(1, 3))
def test_every_factorisation_is_covered_up_to_renaming_of_axes(nodes: int, devices: int, dims: int) -> None:
    machine, submesh = cluster(nodes=nodes, devices=devices), Submesh(nodes, devices)
    meshes = logical_meshes(machine, submesh, max_dims=dims)
    known = {tuple(sorted(zip(m.shape, map(repr, m.links), strict=True))) for m in meshes}
    assert len(known) == len(meshes)
    for shape in factorisations(nodes * devices, dims):
        links = logical_mesh(machine, submesh, shape).links
        assert tuple(sorted(zip(shape, map(repr, links), strict=True))) in known
    for m in meshes:
        assert prod(m.shape) == submesh.device_count and len(m.shape) <= dims and 1 not in m.shape


def test_factorisations_are_ordered_and_without_ones() -> None:
    assert factorisations(12, 2) == ((12,), (2, 6), (3, 4), (4, 3), (6, 2))
    assert factorisations(1, 2) == ((),)
    assert factorisations(7, 3) == ((7,),)


@pytest.mark.parametrize("submesh", [Submesh(0, 8), Submesh(1, 0), Submesh(2, 8), Submesh(1, 9)])
def test_a_submesh_that_does_not_fit_is_refused(submesh: Submesh) -> None:
    with pytest.raises(MeshError):
        logical_meshes(cluster(), submesh)


def test_a_shape_of_another_device_count_is_refused() -> None:
    with pytest.raises(MeshError, match="8 devices"):
        logical_mesh(cluster(), Submesh(1, 8), (2, 3))
    with pytest.raises(MeshError, match="max_dims"):
        logical_meshes(cluster(), Submesh(1, 8), max_dims=0)


def test_link_between_stages() -> None:
    assert stage_link(cluster(), same_node=True) == FAST
    assert stage_link(cluster(), same_node=False) == Link(1.0, 2.0)  # eight devices share 8 B/s
