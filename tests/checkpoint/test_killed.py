"""Runs killed by SIGKILL lose nothing but the steps since their last finished checkpoint."""

from soak import soak


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    """Three kills, the last while the process starts; `soak` raises where a loss or a checkpoint is wrong."""
    row = soak(tmp_path, 3, seed=6, window_s=0.5)
    assert row["kills"] == 3
    assert row["steps_repeated"] >= 0
