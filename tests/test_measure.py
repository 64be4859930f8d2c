"""Measuring this machine: fits and levels by hand, budgets by a clock of our own, and that what is measured is a whole,
sourced, kept profile."""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import Cluster, MemoryLevel
from planner.costs.collectives import KINDS
from planner.errors import MeshError, PlannerError, ProfileError
from planner.measure import local_cluster, measure
from planner.measure.communication import TIMED, line
from planner.measure.fixed import FixedCosts, kernels
from planner.measure.habits import adds_then_sums, merges, sums_then_slices
from planner.measure.matmul_grid import MatmulTimer, Point, Shape, matmul_grid
from planner.measure.memory import levels
from planner.measure.overlap import hidden
from planner.measure.pace import Allowance, Pace
from planner.measure.sizes import ACCELERATOR, CPU, Images, Sizes, sizes_for
from planner.measure.timing import INNER, Reading, Times, on_all, repeated, time_in_turn, time_on_all
from planner.profiles import read_profile, write_profile

ROOT = Path(__file__).parents[1]

TINY = Sizes(sides=(8, 64), batches=(1,), dtypes=("float32", "bfloat16"), working_sets=(1 << 12, 1 << 20),
             exponentials=1 << 10, images=Images(2, 4, (4, 8)), messages=(1 << 8, 1 << 14),
             overlapped=1 << 12, timed_bytes=24e6)

FREE = FixedCosts(Reading(0, 0, ""), Reading(0, 0, ""), 0.0, 0.0)


@pytest.fixture(scope="module", autouse=True)
def compiled_as_for_users() -> Iterator[None]:
    """What is timed and looked at here is what the compiler makes for users."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def measured() -> tuple[Cluster, list[tuple[str, float]]]:
    """Two devices, and what was told on the way."""
    told: list[tuple[str, float]] = []
    tell = lambda what, share: told.append((what, share))  # noqa: E731
    return measure(jax.devices()[:2], budget_s=6, sizes=TINY, progress=tell), told


@dataclasses.dataclass
class Clock:
    """Moves on by a step each time it is read."""

    step: float = 1.0
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_every_number_has_a_source_and_survives_a_file(measured: tuple[Cluster, object], tmp_path: Path) -> None:
    write_profile(measured[0], tmp_path / "here.json")
    assert read_profile(tmp_path / "here.json") == measured[0]  # reading refuses a number without a source
    timed = [where for _, where in measured[0].sources if where.startswith("measured")]
    assert len(timed) >= 9
    assert all(jax.__version__ in where and "spread" in where and "all busy" in where for where in timed)


def test_what_is_measured_is_possible(measured: tuple[Cluster, object]) -> None:
    machine = measured[0]
    assert machine.name == "cpu-2" and machine.nodes == 1 and machine.devices_per_node == 2
    # A CPU core does between 0.1 and 1000 GFLOP/s, and its memory moves 0.1 to 1000 GB/s.
    assert 1e8 < machine.device.flops_per_s("float32") < 1e13
    assert 1e7 < machine.device.memory_bandwidth_bytes_per_s < 1e12
    assert 1e7 < machine.intra_node.bandwidth_bytes_per_s < 1e13
    assert 0 < machine.device.dispatch_s < 1 and 0 <= machine.device.launch_s < 1
    assert 0 <= machine.device.result_s < 1 and 0 <= machine.device.exposed_traffic <= 1
    assert machine.device.memory_bytes > 2**27
    assert {(m.kind, m.devices) for m in machine.intra_node.measured} == {(kind, 2) for kind in TIMED}
    assert set(TIMED) <= set(KINDS)


def test_grids_have_a_rate_for_every_shape(measured: tuple[Cluster, object]) -> None:
    device = measured[0].device
    assert [grid.dtype for grid in device.matmuls] == ["float32", "bfloat16"]
    for grid in device.matmuls:
        assert (grid.m, grid.n, grid.k, grid.batch) == (TINY.sides, TINY.sides, TINY.sides, TINY.batches)
        assert len(grid.flops_per_s) == 2**3
        assert all(math.isfinite(rate) and rate > 0 for rate in grid.flops_per_s)
        assert max(grid.flops_per_s) == dict(device.peak_flops_per_s)[grid.dtype]


def test_overlap_and_habits_are_measured(measured: tuple[Cluster, object]) -> None:
    machine = measured[0]
    assert machine.overlap is not None and machine.merges_all_reduces and machine.reduce_scatter_as_all_reduce
    assert all(0 <= part <= 1 for part in dataclasses.astuple(machine.overlap))


def test_rates_of_convolutions_are_measured(measured: tuple[Cluster, object]) -> None:
    rates = measured[0].device.convolutions
    assert rates is not None
    assert all(0 < part <= 1 for part in (rates.forward, rates.input_gradient, rates.filter_gradient))
    assert 1 <= rates.full_width <= 8


def test_copies_and_the_speed_of_one_alone_are_measured(measured: tuple[Cluster, object]) -> None:
    device = measured[0].device
    assert device.relayout is not None and 1 <= device.relayout < 100
    assert 1 <= device.alone <= 2  # two devices


def test_a_kernel_for_each_of_two_results_is_noticed() -> None:
    """By XLA's own emitters, which the other tests do without (`conftest.py`)."""
    code = "import jax; from planner.measure.habits import kernel_per_result as habit; print(habit(jax.devices()))"
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    said = subprocess.run([sys.executable, "-c", code], env=own, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True"]


def test_kernels_of_a_compiled_program_are_counted() -> None:
    """A doubling is one kernel, and its parameter none; XLA on CPU makes a kernel of each of two results."""
    vector = jax.ShapeDtypeStruct((64,), "float32")
    one = jax.jit(lambda a: a * 2).lower(vector).compile().as_text() or ""
    two = jax.jit(lambda a: (a * 2, a + 1)).lower(vector).compile().as_text() or ""
    assert kernels(one) == 1 and kernels(two) == 2


def test_progress_grows_to_one(measured: tuple[Cluster, list[tuple[str, float]]]) -> None:
    shares = [share for _, share in measured[1]]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert len(set(shares)) > 20 and {"memory", "matmuls", "collectives"} <= {what for what, _ in measured[1]}


def test_one_device_has_no_links() -> None:
    machine = measure(jax.devices()[:1], budget_s=1, sizes=dataclasses.replace(TINY, dtypes=("float32",)))
    assert machine.devices_per_node == 1 and machine.overlap is None and not machine.intra_node.measured


def test_ctrl_c_while_measuring_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, share: float) -> None:
        if what == "matmuls" and share > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_cluster(jax.devices()[:2], tmp_path, sizes=TINY, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_xla_on_cpu_makes_an_all_reduce_of_a_reduce_scatter() -> None:
    assert sums_then_slices(jax.devices())


def test_xla_on_cpu_combines_partial_sums_before_it_adds_them() -> None:
    assert not adds_then_sums(jax.devices())


def test_xla_on_cpu_merges_all_reduces() -> None:
    assert merges(jax.devices())


def test_a_kept_profile_is_not_measured_again(measured: tuple[Cluster, object], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def once(devices: list[object], **_: object) -> Cluster:
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


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf])
def test_impossible_budgets_are_refused(budget: float) -> None:
    with pytest.raises(PlannerError, match="seconds to measure in"):
        measure(jax.devices()[:1], budget_s=budget)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_sizes_cover_small_to_large(platform: str) -> None:
    sizes = sizes_for(platform)
    assert sizes is (CPU if platform == "cpu" else ACCELERATOR)
    for ascending in (sizes.sides, sizes.batches, sizes.working_sets, sizes.messages, sizes.images.features):
        assert list(ascending) == sorted(set(ascending)) and ascending[0] >= 1
    assert sizes.sides[-1] >= 64 * sizes.sides[0] and sizes.batches[0] == 1
    assert {*sizes.dtypes} == {"float32", "bfloat16"}
    largest = max(2 * 4 * sizes.sides[-1]**2 * 3, 2 * sizes.working_sets[-1], 8 * 4 * sizes.messages[-1])
    assert largest < (256 << 20 if platform == "cpu" else 8 << 30)  # a device's arrays at once: batches are cut


def test_every_device_of_every_group_takes_part() -> None:
    ran: list[int] = []

    def body(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda n: ran.append(int(n)), jax.lax.psum(1, INNER))
        return jax.lax.psum(x, INNER)

    even = Allowance(1000, Clock(1.0))  # every run takes a second: none is noisier than another
    times = time_on_all(body, [((4,), "float32")], jax.devices(), group=4, repeats=3, allowance=even)
    jax.effects_barrier()
    assert ran == [4] * (8 * 5)  # eight devices, two runs before three that are timed
    assert len(times.seconds) == 3


def test_rounds_stop_when_time_is_up_and_go_on_while_it_is_noisy() -> None:
    clock, calls = Clock(0.0), []

    def call() -> jax.Array:
        calls.append(1)
        clock.now += 1.0
        return jnp.zeros(())

    assert len(time_in_turn([call], 9, Allowance(100, clock))[0].seconds) == 9  # steady: as many as asked for
    assert len(time_in_turn([call], 9, Allowance(clock.now + 7, clock))[0].seconds) == 5  # two of seven compile
    assert len(time_in_turn([call], 9, Allowance(clock.now, clock))[0].seconds) == 3  # no time: the least

    def noisy() -> jax.Array:
        calls.append(1)
        clock.now += 1.0 + 9 * (len(calls) % 2)
        return jnp.zeros(())

    assert len(time_in_turn([noisy], 9, Allowance(math.inf, clock))[0].seconds) == 27  # thrice as many
    with_limit = time_in_turn([noisy], 9, Allowance(clock.now + 80, clock))[0].seconds
    assert 9 < len(with_limit) < 27


def test_a_pace_divides_what_is_left() -> None:
    clock, told = Clock(0.0), []
    pace = Pace.of([("a", 1.0), ("b", 1.0), ("c", 2.0)], 40, lambda *news: told.append(news), clock)
    a = pace.take("a")
    assert a.left_s() == 10
    clock.now += 4  # six of its seconds are left to the others: 12 for b, 24 for c
    b = pace.take("b")
    assert b.left_s() == 12
    parts = []
    for item, part in b.each(["x", "y", "z"]):
        parts.append((item, part.left_s()))
        part.tell(0.5)
        clock.now += 6  # more than their share
    assert parts == [("x", 4), ("y", 3), ("z", 0)]
    assert pace.take("c").left_s() == 40 - 22
    assert told[0] == ("a", 0) and told[-1] == ("c", 0.5)
    assert [share for _, share in told] == sorted(share for _, share in told)


@dataclasses.dataclass(frozen=True)
class FakeTimer(MatmulTimer):
    """Times nothing: every shape takes two seconds of its clock and is equally fast."""

    clock: Clock = dataclasses.field(default_factory=Clock)

    def point(self, shape: Shape, guess: float, allowance: Allowance):
        self.clock.now += 2.0
        return Point(1e9, 0.0)


def test_a_grid_is_as_fine_as_there_is_time_for() -> None:
    sides, coarse = (2, 4, 8, 16), (2, 8, 16)
    devices = jax.devices()[:1]
    for budget, sides_found, batches in ((10, coarse, (1,)), (110, coarse, (1, 2)), (400, sides, (1, 2))):
        clock = Clock(0.0)
        timer = FakeTimer(devices, "float32", FREE, clock=clock)
        found = matmul_grid(timer, sides, (1, 2), Allowance(budget, clock))
        assert (found.grid.m, found.grid.batch) == (sides_found, batches)
        assert clock.now <= max(budget, 27 * 2) + 2  # the coarsest is always measured whole


def test_a_doubtful_shape_is_timed_again() -> None:
    clock, asked = Clock(0.0), []

    @dataclasses.dataclass(frozen=True)
    class Disturbed(FakeTimer):
        def point(self, shape: Shape, guess: float, allowance: Allowance):
            asked.append(shape)
            point = super().point(shape, guess, allowance)
            slow = shape == Shape(1, 16, 16, 16) and asked.count(shape) == 1
            return dataclasses.replace(point, rate=1.0 if slow else 1e9)

    timer = Disturbed(jax.devices()[:1], "float32", FREE, clock=clock)
    found = matmul_grid(timer, (8, 16), (1,), Allowance(1e6, clock))
    assert asked.count(Shape(1, 16, 16, 16)) == 2 and len(asked) == 9
    assert set(found.grid.flops_per_s) == {1e9}


def test_a_batch_too_long_to_time_is_timed_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[int, ...]] = []

    def seen(body: object, inputs: list[tuple[tuple[int, ...], str]], *_: object, **__: object) -> Times:
        timed.append(inputs[0][0])
        return Times((1.0,) * 5)

    monkeypatch.setattr("planner.measure.matmul_grid.time_on_all", seen)
    timer = MatmulTimer(jax.devices()[:1], "float32", FREE)
    whole, part = Shape(16, 64, 64, 64), Shape(1, 64, 64, 64)
    timer.point(whole, 1e12, Allowance())
    assert timed[-1] == (16, 64, 64)  # 8 MFLOP at 1 TFLOP/s
    timer.point(whole, 1e7, Allowance())
    assert timed[-1] == (2, 64, 64)  # 8 MFLOP at 10 MFLOP/s would take most of a second
    timer.point(part, 1e7, Allowance())
    assert timed[-1] == (64, 64)
    assert timer.point(whole, 1e7, Allowance()).rate == 2 * 2 * 64**3  # of the two that ran in a second


def test_a_device_without_time_gives_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.measure.matmul_grid.time_on_all", lambda *_, **__: Times((math.inf,) * 5))
    with pytest.raises(ProfileError, match="measure again"):
        MatmulTimer(jax.devices()[:1], "float32", FREE).point(Shape(1, 8, 8, 8), 1e9, Allowance())


def test_the_order_of_a_grid_is_batch_m_n_k() -> None:
    @dataclasses.dataclass(frozen=True)
    class Named(FakeTimer):
        def point(self, shape: Shape, guess: float, allowance: Allowance):
            number = ((shape.batch * 100 + shape.m) * 100 + shape.n) * 100 + shape.k
            return dataclasses.replace(super().point(shape, guess, allowance), rate=float(number))

    found = matmul_grid(Named(jax.devices()[:1], "float32", FREE), (2, 4), (1, 2), Allowance())
    assert found.grid.flops_per_s[:5] == (1020202, 1020204, 1020402, 1020404, 1040202)
    assert found.large_shares()[-1] == 1


def test_repeated_steps_are_not_merged_or_left_out() -> None:
    """A loop of matmuls in the compiled program, with the matmul inside it."""
    body = repeated(jnp.matmul, 7)
    a = np.arange(4.0, dtype=np.float32).reshape(2, 2)
    assert np.array_equal(jax.jit(body)(a, a)[0], a @ a)
    text = jax.jit(body).lower(jnp.ones((64, 64)), jnp.ones((64, 64))).compile().as_text() or ""
    inside, _, after = text.partition("ENTRY")
    assert '"known_trip_count":{"n":"7"}' in after and ("dot(" in inside or "fusion" in inside)
    assert "dot(" not in after


def test_a_turn_of_a_loop_may_do_many_steps() -> None:
    """All of them are there."""
    pairs = [np.arange(4.0, dtype=np.float32).reshape(2, 2) + n for n in range(8)]
    found = jax.jit(repeated(jnp.matmul, 12, 4))(*pairs)
    assert all(np.array_equal(x, a @ b) for x, a, b in zip(found, pairs[::2], pairs[1::2], strict=True))
    large = [jnp.ones((512, 512))] * 8
    text = jax.jit(repeated(jnp.matmul, 12, 4)).lower(*large).compile().as_text() or ""
    assert '"known_trip_count":{"n":"3"}' in text and text.count(" dot(") == 4


def test_arrays_of_every_device_are_filled() -> None:
    made = on_all(lambda x: x, [((2, 3), "bfloat16")], jax.devices()[:4])()
    assert made.shape == (8, 3) and made.dtype == jnp.bfloat16
    parts = np.asarray(made, np.float32).reshape(4, 6)
    assert (parts == parts[0]).all() and len(set(parts[0])) == 6 and parts.min() >= 0 and parts.max() <= 1 / 8


def test_levels_of_a_curve() -> None:
    curve = [(1, 100.), (2, 110.), (4, 95.), (8, 40.), (16, 41.), (32, 20.), (64, 10.), (128, 9.), (256, 9.)]
    found, beyond = levels(curve)
    # 8 and 16 share a rate; 32 lies between two levels; the rest is device memory.
    assert found == (MemoryLevel("level 1", 4, 100.), MemoryLevel("level 2", 16, 40.5)) and beyond == 9
    assert levels([(1, 5.), (2, 4.9)]) == ((), 4.95)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=12))
def test_levels_get_larger_and_are_faster_than_memory(rates: list[float]) -> None:
    found, beyond = levels([(2**n, rate) for n, rate in enumerate(rates)])
    sizes = [level.capacity_bytes for level in found]
    assert sizes == sorted(set(sizes)) and min(rates) <= beyond <= max(rates)


def test_what_is_hidden() -> None:
    assert hidden(1.0, 2.0, 3.0) == 0 and hidden(1.0, 2.0, 2.0) == 1 and hidden(1.0, 2.0, 2.25) == 0.75
    assert hidden(1.0, 2.0, 3.5) == 0 and hidden(1.0, 2.0, 1.5) == 1  # never outside


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
    # Time fell with size: no cost per byte that could be told from none, so a tenth of the quickest, over the largest.
    assert line([1, 2], [3, 1]) == pytest.approx((1, 0.05))


def test_reading_uses_arrays_of_the_asked_dtype() -> None:
    seen: list[jnp.dtype] = []

    def body(x: jax.Array) -> jax.Array:
        seen.append(x.dtype)
        return x

    time_on_all(body, [((2,), "bfloat16")], jax.devices()[:2], repeats=1)
    assert set(seen) == {jnp.dtype("bfloat16")}


def test_devices_that_queue_are_timed_in_long_turns(measured: tuple[Cluster, object]) -> None:
    """As accelerators are: calls among many, loops with many steps a turn, nothing taken off for a step."""
    queueing = dataclasses.replace(TINY, copies=4, queues=True, dtypes=("float32",))
    cluster = measure(jax.devices()[:1], budget_s=1.0, sizes=queueing)
    assert 0 < cluster.device.dispatch_s < 20 * measured[0].device.dispatch_s
    assert all(0 < rate < 1e13 for grid in cluster.device.matmuls for rate in grid.flops_per_s)
