"""Handing a tensor from stage to stage, by hand and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.transfer import stage_transfer_s
from tests.costs.machines import FAST


def test_by_hand() -> None:
    # 800 B sharded four ways on both sides: every pair moves 200 B at 100 B/s, after 0.5 s.
    assert stage_transfer_s(800, ((0,),), (4,), ((0,),), (4,), FAST) == pytest.approx(2.5)
    # To four whole copies: every receiver takes 800 B, in four pieces.
    assert stage_transfer_s(800, ((0,),), (4,), ((),), (4,), FAST) == pytest.approx(4 * 0.5 + 8)
    # From four copies to four shards: one piece of 200 B each.
    assert stage_transfer_s(800, ((),), (4,), ((0,),), (4,), FAST) == pytest.approx(2.5)
    # One device hands shards to four: it gives out all 800 B, in four messages.
    assert stage_transfer_s(800, ((),), (1,), ((0,),), (4,), FAST) == pytest.approx(4 * 0.5 + 8)
    # Four devices hand their shards to one.
    assert stage_transfer_s(800, ((0,),), (4,), ((),), (1,), FAST) == pytest.approx(4 * 0.5 + 8)


@given(st.floats(1, 1e9), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_nothing_is_faster_than_its_bytes_over_all_links(size: float, senders: int, receivers: int) -> None:
    for src in (((),), ((0,),)):
        for dst in (((),), ((0,),)):
            time = stage_transfer_s(size, src, (senders,), dst, (receivers,), FAST)
            assert time >= FAST.latency_s + size / FAST.bandwidth_bytes_per_s / min(senders, receivers) - 1e-9
