"""Which stages share devices, and in which placements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.layout import Layout, Placement, layout_of, placed


@given(st.integers(1, 9), st.integers(1, 5))
def test_a_layout_follows_its_own_placement(ranks, chunks):
    for placement in Placement:
        layout = placed(placement, ranks, chunks)
        assert layout.follows(placement)
        assert (layout.ranks, layout.stages) == (ranks, sum(len(layout.stages_of(r)) for r in range(ranks)))
        assert layout_of([f"devices {r}" for r in layout.rank_of]) == layout


@pytest.mark.parametrize("rank_of", [(0, 0, 1), (0, 1, 1), (0, 1, 2, 0, 1), (0, 1, 1, 0, 0, 1)])
def test_other_orders_follow_none(rank_of):
    assert not any(Layout(rank_of).follows(placement) for placement in Placement)
