"""Slices of TPUs: numbers in a row are smaller tori, axes get the links that they are on, devices their order."""

from collections import Counter
from dataclasses import replace
from itertools import product
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import Cluster, Link, Submesh, Torus
from planner.costs.topology import factorisations, hand_over_link, logical_mesh, logical_meshes, submeshes
from planner.costs.torus import block_sizes, digits, extents, in_line, slice_of, torus_mesh
from planner.errors import MeshError
from planner.profiles import cluster
from tests.costs import machines

Chip = tuple[int, ...]


def slice_like(nodes: int, devices: int, dimensions: int, *, closes_at: int = 4, together: bool = False) -> Cluster:
    torus = Torus(dimensions, Link(10.0, 1.0), closes_at, together)
    return replace(machines.cluster(nodes=nodes, devices=devices), torus=torus)


def chips(machine: Cluster) -> list[Chip]:
    """Coordinates in the order of the numbers, digit by digit."""
    assert machine.torus is not None
    cuts = digits(machine.nodes, machine.devices_per_node, machine.torus.dimensions)
    found = []
    for number in product(*(range(parts) for _, parts in cuts)):
        at = [0] * machine.torus.dimensions
        for (d, parts), digit in zip(cuts, number, strict=True):
            at[d] = at[d] * parts + digit
        found.append(tuple(at))
    return found


slices = st.builds(slice_like, st.sampled_from([1, 2, 3, 4, 6, 8, 16]), st.sampled_from([2, 4, 8]),
                   st.integers(2, 3), closes_at=st.sampled_from([2, 4]), together=st.booleans())


@given(slices)
def test_numbers_in_a_row_are_smaller_tori(machine: Cluster) -> None:
    assert machine.torus is not None
    at = chips(machine)
    assert len(set(at)) == machine.device_count == prod(slice_of(machine))
    for size in block_sizes(machine):
        cuts = digits(machine.nodes, machine.devices_per_node, machine.torus.dimensions)
        for first in range(0, machine.device_count, size):
            block = at[first:first + size]
            spans = tuple(max(c[d] for c in block) - min(c[d] for c in block) + 1 for d in range(len(block[0])))
            assert prod(spans) == size  # a box without holes
        assert size in {prod(p for _, p in cuts[n:]) for n in range(len(cuts) + 1)}


def crowded(machine: Cluster, size: int, shape: tuple[int, ...], order: tuple[int, ...], axis: int) -> float | None:
    """Bytes a second of an axis that lies along one dimension, wire by wire: every group sends once around, each chip
    to the next; None where the axis is on several dimensions."""
    assert machine.torus is not None
    torus, whole, at = machine.torus, slice_of(machine), chips(machine)[:size]
    wraps = [n % torus.closes_at == 0 for n in whole]
    if torus.closes_together:
        wraps = [all(wraps)] * len(wraps)
    placed = [at[n] for n in order or range(size)]
    stride, length = prod(shape[axis + 1:]), shape[axis]
    load: Counter[tuple[Chip, int, int]] = Counter()
    for outer in range(0, size, stride * length):
        for inner in range(stride):
            group = [placed[outer + inner + k * stride] for k in range(length)]
            moves = [d for d in range(len(whole)) if len({c[d] for c in group}) > 1]
            if len(moves) != 1:
                return None
            d = moves[0]
            span = max(c[d] for c in at) - min(c[d] for c in at) + 1
            ring = wraps[d] and span == whole[d]
            for a, b in zip(group, group[1:] + group[:1], strict=True):
                ahead = 2 * ((b[d] - a[d]) % whole[d]) <= whole[d] if ring else b[d] > a[d]  # the short way
                step = 1 if ahead else -1
                here = a
                while here[d] != b[d]:
                    load[here, d, step] += 1
                    here = (*here[:d], (here[d] + step) % whole[d], *here[d + 1:])
    ways = 2 if {s for _, _, s in load} == {1} else 1  # around a ring both ways, half of it each
    return ways * torus.link.bandwidth_bytes_per_s / max(load.values())


@given(slices, st.data())
def test_the_link_of_an_axis_is_that_of_its_wires(machine: Cluster, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([n for n in block_sizes(machine) if n > 1]))
    shape = data.draw(st.sampled_from(factorisations(size, 2)))
    lies = torus_mesh(machine, size, shape)
    if lies is None:
        return
    each = machine.devices_per_node
    mesh = logical_mesh(machine, Submesh(max(1, size // each), min(size, each)), shape)
    assert sorted(mesh.order or range(size)) == list(range(size))
    for axis, link in enumerate(mesh.links):
        known = crowded(machine, size, shape, mesh.order, axis)
        assert known is None or link.bandwidth_bytes_per_s == pytest.approx(known)


@pytest.mark.parametrize(("name", "nodes", "size", "shape", "rates"), [
    # How to Scale Your Model, part 2: 45 GB/s a link and direction on v5e, twice that on v5p and v6e.
    ("tpu-v5e", 32, 256, (16, 16), (90, 90)),  # a whole pod: both dimensions are closed
    ("tpu-v5e", 32, 256, (256,), (180,)),
    ("tpu-v5e", 8, 64, (8, 8), (45, 45)),  # 8 x 8: open
    ("tpu-v5e", 16, 128, (8, 16), (45, 90)),  # 8 x 16: the dimension of 16 is closed
    ("tpu-v5p", 16, 64, (4, 16), (180, 360)),  # a cube of 4 x 4 x 4
    ("tpu-v5p", 2, 8, (2, 4), (90, 180)),  # 2 x 2 x 2: nothing is closed
    ("tpu-v5p", 16, 32, (4, 8), (180, 270)),  # half of the cube: 2 x 4 x 4, of which two are whole
    ("tpu-v6e", 1, 8, (2, 4), (90, 90))])
def test_links_of_known_slices(name: str, nodes: int, size: int, shape: tuple[int, ...],
                               rates: tuple[float, ...]) -> None:
    machine = cluster(name, nodes=nodes)
    each = machine.devices_per_node
    mesh = logical_mesh(machine, Submesh(max(1, size // each), min(size, each)), shape)
    assert tuple(link.bandwidth_bytes_per_s / 1e9 for link in mesh.links) == rates


def test_slices_are_as_they_are_sold() -> None:
    sold = {("tpu-v5p", 1): (1, 2, 2), ("tpu-v5p", 2): (2, 2, 2), ("tpu-v5p", 4): (2, 2, 4), ("tpu-v5p", 16): (4, 4, 4),
            ("tpu-v5p", 128): (8, 8, 8), ("tpu-v4", 32): (4, 4, 8), ("tpu-v5e", 1): (2, 4), ("tpu-v5e", 2): (4, 4),
            ("tpu-v5e", 32): (16, 16)}
    assert {key: tuple(sorted(slice_of(cluster(key[0], nodes=key[1])))) for key in sold} == sold


def test_submeshes_and_meshes_of_a_slice() -> None:
    machine = cluster("tpu-v5p", nodes=4)
    assert [s.device_count for s in submeshes(machine)] == [1, 2, 4, 8, 16]
    assert {m.shape for m in logical_meshes(machine, Submesh(4, 4))} >= {(16,), (4, 4)}
    with pytest.raises(MeshError, match="smaller torus"):
        torus_mesh(machine, 12, (12,))


def test_handing_over_goes_through_the_face_between_two_stages() -> None:
    machine = slice_like(8, 4, 2)  # 32 chips, 4 x 8
    assert extents(digits(8, 4, 2), 2) == (4, 8)
    link = hand_over_link(machine, tuple(range(16)), tuple(range(16, 32)))  # 4 x 4 beside 4 x 4: four chips deep
    assert link == Link(10.0 / 4, 4.0)


@given(slices, st.randoms(use_true_random=False), st.integers(0, 5))
def test_chips_are_ordered_by_where_they_lie(machine: Cluster, random: object, turn: int) -> None:
    assert machine.torus is not None
    at = [(*c[1:], c[0], turn) if turn % 2 else (*c, turn) for c in chips(machine)]
    shuffled = list(range(len(at)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    order = in_line(machine, [at[n] for n in shuffled])
    found = [at[shuffled[n]] for n in order or ()]
    assert sorted(found) == sorted(at)
    if turn % 2 == 0:
        assert extents_of(found) == extents_of(at)
    assert in_line(machine, at[1:]) is None or machine.device_count == 1
    assert in_line(replace(machine, torus=None), at) is None


def extents_of(at: list[Chip]) -> set[tuple[int, ...]]:
    """The boxes of the first chips, for every power of two of them."""
    sizes = [2**n for n in range(len(at).bit_length()) if 2**n <= len(at)]
    return {tuple(sorted(len({c[d] for c in at[:n]}) for d in range(len(at[0])))) for n in sizes}
