"""Strategies against a plain enumeration."""

from itertools import product
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.strategies import enumerate_strategies

MESHES = st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=3).map(tuple)


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4))
    mesh = draw(MESHES)
    allowed = [sorted(draw(st.sets(st.integers(0, len(sizes) - 1)))) for _ in mesh]
    dims = draw(st.permutations([*range(len(sizes)), None, None]))[:draw(st.integers(0, 4))]
    return sizes, mesh, allowed, dims


@given(cases())
def test_every_legal_assignment_is_there_once(case):
    sizes, mesh, allowed, _ = case
    found = [tuple(row) for row in enumerate_strategies(sizes, mesh, allowed).table.tolist()]

    def divides(row):
        return all(sizes[c] % prod(n for n, on in zip(mesh, row, strict=True) if on == c) == 0 for c in set(row) - {-1})

    wanted = [row for row in product(*([-1, *on] for on in allowed)) if divides(row)]
    assert sorted(found) == sorted(wanted)


@given(cases())
def test_specs_are_those_of_the_rows_in_order_of_first_use(case):
    sizes, mesh, allowed, dims = case
    strategies = enumerate_strategies(sizes, mesh, allowed)
    specs, index = strategies.specs(dims)
    by_row = [strategies.spec(row, dims) for row in range(len(strategies))]
    assert [specs[i] for i in index] == by_row
    assert list(specs) == list(dict.fromkeys(by_row))
    for row, spec in enumerate(by_row):
        for c, axes in zip(dims, spec, strict=True):
            assert list(axes) == [a for a in range(len(mesh)) if c is not None and strategies.table[row, a] == c]
        parts = strategies.shards([c for c in dims if c is not None])[row]
        assert parts == prod(mesh[a] for axes in spec for a in axes)


@given(cases(), st.integers(0, 2), st.sets(st.integers(0, 3)))
def test_a_forced_axis_shards_what_it_must_wherever_it_can(case, axis, among):
    sizes, mesh, allowed, _ = case
    axis %= len(mesh)
    free = enumerate_strategies(sizes, mesh, allowed).table[:, axis]
    forced = enumerate_strategies(sizes, mesh, allowed, forced={axis: among}).table[:, axis]
    if np.isin(free, list(among)).any():
        assert np.isin(forced, list(among)).all()
    else:
        assert np.all(forced >= 0) == np.any(free >= 0)
