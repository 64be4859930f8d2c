"""Collectives by protocol: low latency for few bytes, full bandwidth for many, one ring through two levels."""

import dataclasses

import pytest

from planner.core.hardware import RING, TREE, Cluster, CollectiveTime, Link, Protocol, Submesh
from planner.costs.collectives import (
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    broadcast_s,
    permute_s,
    reduce_scatter_s,
)
from planner.costs.topology import logical_mesh
from tests.costs.machines import DEVICE

QUICK = Protocol("quick", RING, 1.0, 0.5, 0.25)
FULL = Protocol("full", RING, 4.0, 2.0, 1.0)
UPWARDS = Protocol("full", TREE, 4.0, 2.0, 1.0)


def mesh(*shape, protocols=(QUICK, FULL), nodes=1, inter=None):
    count = 1
    for n in shape:
        count *= n
    inside = Link(100.0, 0.5, protocols=protocols)
    cluster = Cluster("toy", DEVICE, nodes, count // nodes, inside, inter or inside)
    return logical_mesh(cluster, Submesh(nodes, count // nodes), shape)


def test_few_bytes_go_by_the_quick_protocol_many_by_the_full_one():
    four = mesh(4)
    assert all_reduce_s(8.0, (0,), four) == pytest.approx(1 + 6 * 0.5 + 1.5 * 8 / 25)
    assert all_reduce_s(8000.0, (0,), four) == pytest.approx(4 + 6 * 2 + 1.5 * 8000 / 100)
    assert all_gather_s(8000.0, (0,), four) == reduce_scatter_s(8000.0, (0,), four) \
        == pytest.approx(4 + 3 * 2 + 0.75 * 8000 / 100)
    assert all_to_all_s(8000.0, (0,), four) == pytest.approx(4 + 3 * 2 + 0.75 / 4 * 8000 / 100)
    assert permute_s(8000.0, (0,), four) == pytest.approx(4 + 2 + 8000 / 100)
    assert broadcast_s(8000.0, (0,), four) == pytest.approx(4 + 3 * 2 + 8000 / 100)


def test_trees_have_fewer_steps_and_run_all_reduces_alone():
    ring, both = mesh(64, protocols=(FULL,)), mesh(64, protocols=(FULL, UPWARDS))
    assert all_reduce_s(100.0, (0,), ring) == pytest.approx(4 + 126 * 2 + 126 / 64)
    assert all_reduce_s(100.0, (0,), both) == pytest.approx(4 + 12 * 2 + 2.0)
    assert all_gather_s(100.0, (0,), both) == all_gather_s(100.0, (0,), ring)


def test_two_levels_are_one_ring_at_the_speed_of_the_slower():
    """Four devices a node, two nodes: a ring enters and leaves each node once, where all four share the wire."""
    wire = Link(40.0, 0.5, protocols=(dataclasses.replace(FULL, step_s=10.0),))
    two = mesh(2, 4, nodes=2, inter=wire, protocols=(FULL,))
    step = (10.0 + 3 * 2.0) / 4
    assert all_reduce_s(1e6, (0, 1), two) == pytest.approx(4 + 14 * step + 2 * 7 / 8 * 1e6 / 40)
    assert all_gather_s(1e6, (0, 1), two) == pytest.approx(4 + 7 * step + 7 / 8 * 1e6 / 40)
    assert all_reduce_s(1e6, (0,), two) == pytest.approx(4 + 2 * 10 + 1e6 / 10)


def test_an_axis_over_nodes_steps_on_both_links():
    wire = Link(40.0, 0.5, protocols=(dataclasses.replace(FULL, step_s=10.0),))
    found = mesh(8, nodes=2, inter=wire, protocols=(FULL,)).links[0]
    assert found.bandwidth_bytes_per_s == 40.0 and found.protocols[0].step_s == pytest.approx((10 + 3 * 2) / 4)


def test_measured_collectives_go_before_protocols():
    inside = Link(100.0, 0.5, (CollectiveTime("all-reduce", 4, 7.0, 0.5),), (QUICK, FULL))
    found = logical_mesh(Cluster("toy", DEVICE, 1, 4, inside, inside), Submesh(1, 4), (4,))
    assert all_reduce_s(10.0, (0,), found) == pytest.approx(12.0)
    assert all_gather_s(8000.0, (0,), found) == pytest.approx(4 + 3 * 2 + 0.75 * 8000 / 100)
