"""Measuring this machine: the fit by hand, and that what is measured is a whole, sourced, kept profile."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import Cluster
from planner.costs.collectives import KINDS
from planner.errors import MeshError, ProfileError
from planner.measure import local_cluster, measure
from planner.measure.communication import adds_then_sums, line, merges, sums_then_slices
from planner.measure.timing import INNER, Times, time_on_all
from planner.profiles import read_profile, write_profile


@pytest.fixture(scope="module")
def measured() -> tuple[Cluster, list[tuple[str, float]]]:
    """Two devices, and what was told on the way."""
    told: list[tuple[str, float]] = []
    return measure(jax.devices()[:2], progress=lambda what, share: told.append((what, share))), told


def test_every_number_has_a_source_and_survives_a_file(measured: tuple[Cluster, object], tmp_path: Path) -> None:
    write_profile(measured[0], tmp_path / "here.json")
    assert read_profile(tmp_path / "here.json") == measured[0]  # reading refuses a number without a source
    assert all(jax.__version__ in where for key, where in measured[0].sources if key.startswith("intra_node."))


def test_what_is_measured_is_possible(measured: tuple[Cluster, object]) -> None:
    machine = measured[0]
    assert machine.name == "cpu-2" and machine.nodes == 1 and machine.devices_per_node == 2
    # A CPU core does between 1 and 1000 GFLOP/s, and its memory moves 0.1 to 1000 GB/s.
    assert 1e8 < machine.device.flops_per_s("float32") < 1e13
    assert 1e7 < machine.device.memory_bandwidth_bytes_per_s < 1e12
    assert 1e7 < machine.intra_node.bandwidth_bytes_per_s < 1e13
    assert 0 < machine.device.dispatch_s < 1 and 0 <= machine.device.launch_s < 1
    assert machine.device.memory_bytes > 2**27
    assert {(m.kind, m.devices) for m in machine.intra_node.measured} == {(kind, 2) for kind in KINDS}


def test_progress_grows_to_one(measured: tuple[Cluster, list[tuple[str, float]]]) -> None:
    shares = [share for _, share in measured[1]]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


def test_xla_on_cpu_makes_an_all_reduce_of_a_reduce_scatter() -> None:
    assert sums_then_slices(jax.devices())


def test_xla_on_cpu_combines_partial_sums_before_it_adds_them() -> None:
    assert not adds_then_sums(jax.devices())


def test_xla_on_cpu_merges_all_reduces() -> None:
    assert merges(jax.devices())


def test_rates_of_convolutions_are_measured(measured: tuple[Cluster, object]) -> None:
    rates = measured[0].device.convolutions
    assert rates is not None
    assert all(0 < part <= 1 for part in (rates.forward, rates.input_gradient, rates.filter_gradient))
    assert 1 <= rates.full_width <= 64 and measured[0].merges_all_reduces


def test_a_kept_profile_is_not_measured_again(measured: tuple[Cluster, object], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def once(devices: list[object], *, progress: object = None) -> Cluster:
        runs.append(len(devices))
        return measured[0]

    monkeypatch.setattr("planner.measure.machine.measure", once)
    first, second = (local_cluster(jax.devices()[:2], tmp_path) for _ in range(2))
    assert first == second == measured[0] and runs == [2]
    local_cluster(jax.devices()[:4], tmp_path)  # another number of devices is another machine
    assert runs == [2, 4]
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 2 and all(jax.__version__ in path.name for path in kept)
    kept[0].write_text(kept[0].read_text()[:40])
    with pytest.raises(ProfileError, match="isn't JSON"):
        local_cluster(jax.devices()[:2], tmp_path)


def test_no_devices_are_refused(tmp_path: Path) -> None:
    for attempt in (lambda: measure([]), lambda: local_cluster([], tmp_path)):
        with pytest.raises(MeshError, match="no devices"):
            attempt()


def test_every_device_of_every_group_takes_part() -> None:
    ran: list[int] = []

    def body(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda n: ran.append(int(n)), jax.lax.psum(1, INNER))
        return jax.lax.psum(x, INNER)

    times = time_on_all(body, [((4,), "float32")], jax.devices(), group=4, repeats=3)
    jax.effects_barrier()
    assert ran == [4] * (8 * 5)  # eight devices, two runs before three that are timed
    assert len(times.seconds) == 3


def test_typical_time_and_spread() -> None:
    times = Times((1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
    assert times.typical_s == 2.0 and times.spread == pytest.approx(6 / 2 - 1)


@given(st.floats(1e-6, 1e-2), st.floats(1e-12, 1e-8))
def test_a_line_is_found_again(fixed: float, slope: float) -> None:
    sizes = [2.0**12, 2.0**18, 2.0**21]
    found = line(sizes, [fixed + slope * x for x in sizes])
    assert found == pytest.approx((fixed, slope), rel=1e-3, abs=1e-12)


def test_a_line_never_goes_below_zero() -> None:
    # Twice the bytes took thrice the time: the best line starts below zero, so it is drawn through the origin.
    # Least relative squares there: sum of x/t over sum of (x/t)^2 = (1 + 2/3) / (1 + 4/9) = 15/13.
    assert line([1, 2], [1, 3]) == pytest.approx((0, 15 / 13))
    # Time fell with size: no cost per byte that could be told from none.
    fixed, slope = line([1, 2], [3, 1])
    assert fixed > 0 and 0 < slope < 1e-30


def test_reading_uses_arrays_of_the_asked_dtype() -> None:
    seen: list[jnp.dtype] = []

    def body(x: jax.Array) -> jax.Array:
        seen.append(x.dtype)
        return x

    time_on_all(body, [((2,), "bfloat16")], jax.devices()[:2], repeats=1)
    assert set(seen) == {jnp.dtype("bfloat16")}
