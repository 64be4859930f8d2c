"""Racks and pods: the link of an axis against brute force over its groups, and what must never be faster."""

from dataclasses import replace
from math import prod

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.core.hardware import Cluster, Level, Link, Protocol, Submesh
from planner.core.links import oversubscribed
from planner.costs.axis_links import offsets
from planner.costs.collectives import ALL_REDUCE, collective
from planner.costs.topology import factorisations, hand_over_link, logical_mesh, searched_submeshes, stage_link
from planner.costs.transfer import cut_transfer_s, hand_over_s
from planner.pipelines.places import place
from tests.costs.machines import FAST, SLOW, cluster

PROTOCOLS = (Protocol("LL", "ring", 1.0, 0.25, 0.5), Protocol("Simple", "ring", 2.0, 0.75, 1.0),
             Protocol("LL", "tree", 1.0, 0.5, 0.5))


def levelled(nodes: int, devices: int, groups: tuple[int, ...], factors: tuple[float, ...],
             intra: Link = FAST, inter: Link = SLOW) -> Cluster:
    levels: list[Level] = []
    for size, factor in zip(groups, factors, strict=True):
        inner, below = (levels[-1].nodes, levels[-1].link) if levels else (1, inter)
        levels.append(oversubscribed(f"level {size}", size, factor, below, size // inner))
    return replace(cluster(nodes=nodes, devices=devices, intra=intra, inter=inter), levels=tuple(levels))


def slowest(machine: Cluster, submesh: Submesh, shape: tuple[int, ...], axis: int, at: int) -> tuple[float, float]:
    """Bandwidth and latency of an axis, group by group and wire by wire, of a submesh that begins at a node."""
    per_node, inner, wire = submesh.devices_per_node, machine.intra_node, machine.inter_node
    stride, size = prod(shape[axis + 1:]), shape[axis]
    groups = [[a + b + k * stride for k in range(size)] for a in range(0, prod(shape), stride * size)
              for b in range(stride)]
    rates, latencies = [], []
    if any(len({d // per_node for d in g}) < len(g) for g in groups):
        rates.append(inner.bandwidth_bytes_per_s)
        latencies.append(inner.latency_s)
    wires = [(1, wire), *((level.nodes, level.link) for level in machine.levels)]
    for held, link in wires:
        homes = [{(d // per_node + at) // held for d in g} for g in groups]
        for home in set().union(*homes):
            leaving = sum(home in h and len(h) > 1 for h in homes)
            if leaving:
                rates.append(link.bandwidth_bytes_per_s / leaving)
                latencies.append(link.latency_s)
    return min(rates), max(latencies)


@st.composite
def machines(draw: st.DrawFn) -> tuple[Cluster, Submesh, tuple[int, ...]]:
    devices = draw(st.sampled_from([1, 2, 4, 6]))
    rack = draw(st.integers(2, 4))
    pod = rack * draw(st.integers(2, 3))
    factors = (draw(st.floats(0.5, 8)), draw(st.floats(0.5, 8)))
    machine = levelled(draw(st.integers(2, 14)), devices, (rack, pod), factors)
    submesh = Submesh(draw(st.integers(1, machine.nodes)), devices)
    assume(submesh.device_count > 1)
    return machine, submesh, draw(st.sampled_from(factorisations(submesh.device_count, 3)))


@given(machines())
def test_the_link_of_an_axis_is_that_of_its_slowest_wire(case: tuple[Cluster, Submesh, tuple[int, ...]]) -> None:
    machine, submesh, shape = case
    places = {at for level in machine.levels for at in offsets(machine, submesh, level)}
    for axis, link in enumerate(logical_mesh(machine, submesh, shape).links):
        worst = [slowest(machine, submesh, shape, axis, at) for at in sorted(places)]
        assert link.bandwidth_bytes_per_s == pytest.approx(min(rate for rate, _ in worst))
        assert link.latency_s == max(latency for _, latency in worst)


@given(machines())
def test_levels_that_nothing_shares_are_two_levels(case: tuple[Cluster, Submesh, tuple[int, ...]]) -> None:
    given_, submesh, shape = case
    wire = replace(SLOW, protocols=PROTOCOLS)
    sizes = tuple(level.nodes for level in given_.levels)
    flat = levelled(given_.nodes, given_.devices_per_node, sizes, (1.0, 1.0), replace(FAST, protocols=PROTOCOLS), wire)
    assert logical_mesh(flat, submesh, shape) == logical_mesh(replace(flat, levels=()), submesh, shape)


@given(machines(), st.floats(1, 4), st.integers(0, 1), st.floats(1, 1e4))
def test_more_oversubscription_is_never_faster(case: tuple[Cluster, Submesh, tuple[int, ...]], times: float, which: int,
                                               size_bytes: float) -> None:
    machine, submesh, shape = case
    level = machine.levels[which]
    slower = replace(level.link, bandwidth_bytes_per_s=level.link.bandwidth_bytes_per_s / times)
    levels = [replace(x, link=slower) if n == which else x for n, x in enumerate(machine.levels)]
    before, after = (logical_mesh(m, submesh, shape) for m in (machine, replace(machine, levels=tuple(levels))))
    for axes in ((0,), tuple(range(len(shape)))):
        fast, slow = (collective(ALL_REDUCE, axes, m).at(size_bytes) for m in (before, after))
        assert slow >= fast * (1 - 1e-12)  # wider links, read the other way, are never slower
    half = machine.device_count // 2
    if half:
        ends = tuple(range(half)), tuple(range(half, 2 * half))
        assert hand_over_s(size_bytes, *ends, replace(machine, levels=tuple(levels))) >= \
            hand_over_s(size_bytes, *ends, machine)


@given(st.integers(2, 40), st.integers(2, 6), st.integers(2, 4), st.data())
def test_stages_that_are_searched_straddle_no_more_racks_than_they_must(nodes: int, rack: int, racks: int,
                                                                        data: st.DataObject) -> None:
    machine = levelled(nodes, 2, (rack, rack * racks), (2.0, 2.0))
    sizes = [s.nodes for s in searched_submeshes(machine) if s.devices_per_node == 2]
    chosen, left = [], nodes
    while left:
        chosen.append(data.draw(st.sampled_from([n for n in sizes if n <= left])))
        left -= chosen[-1]
    for count, devices in zip(chosen, place([2 * n for n in chosen]), strict=True):
        for level in machine.levels:
            met = {d // 2 // level.nodes for d in devices}
            assert len(met) == -(-count // level.nodes)


def test_what_crosses_a_rack_is_handed_over_at_its_rate() -> None:
    machine = levelled(8, 2, (4,), (4.0,))  # racks of 4 nodes of 2 devices: 8 B/s a node, 4 · 8 / 4 a rack
    near = hand_over_link(machine, (0, 1), (2, 3))
    assert near == stage_link(machine, same_node=False) == Link(4.0, 2.0)
    assert hand_over_link(machine, (6, 7), (8, 9)) == Link(4.0, 2.0)  # two devices share the rack's 8 B/s
    assert hand_over_link(machine, (0, 1, 2, 3), tuple(range(8, 12))) == Link(2.0, 2.0)
    assert hand_over_s(80.0, tuple(range(8)), tuple(range(8, 16)), machine) == 2.0 + 80 / 8 / 1.0
    assert cut_transfer_s(80.0, 8, machine) == 2.0 + 80 / 8 / 1.0  # stages that fill racks cross them wherever they lie
