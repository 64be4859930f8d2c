"""Runs killed by SIGKILL lose nothing but the steps since their last finished checkpoint."""

from soak import soak


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Two kills, the last while the process starts; `soak` raises where a loss or a checkpoint is wrong."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))  # all four processes run the same
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    row = soak(tmp_path, 2, seed=9, window_s=0.5)
    assert row["kills"] == 2
    assert row["steps_repeated"] >= 0
