"""Plans for more memory than JAX may use of the devices are warned about."""

from dataclasses import dataclass, replace

import jax

from planner.core.plan import MemoryParts, PlanRecord
from planner.runtime.room import tight_devices
from tests.runtime import models
from tests.runtime.plans import Design, record_of


@dataclass(frozen=True)
class Limited:
    """A device that says how much JAX may use of it."""

    limit_bytes: int | None
    process_index: int = 0

    def memory_stats(self) -> dict[str, int] | None:
        return None if self.limit_bytes is None else {"bytes_limit": self.limit_bytes}


def two_stages(*need_bytes: int) -> PlanRecord:
    record = record_of(models.mlp(), Design(stages=2, mesh_shape=(4,), microbatches=4))
    return replace(record, stages=tuple(replace(s, memory=MemoryParts(params_bytes=need))
                                        for s, need in zip(record.stages, need_bytes, strict=True)))


def test_a_stage_that_needs_more_than_jax_may_use_is_named():
    devices = [Limited(10 * 10**9)] * 8
    assert tight_devices(two_stages(10 * 10**9, 10 * 10**9), devices) == ()
    (warning,) = tight_devices(two_stages(9 * 10**9, 12 * 10**9), devices)
    assert "stage 1" in warning and "12 GB" in warning and "10 GB" in warning
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in warning


def test_the_least_of_the_own_devices_counts():
    mixed = [Limited(None), *[Limited(20 * 10**9)] * 2, Limited(1, jax.process_index() + 1), *[Limited(8 * 10**9)] * 4]
    (warning,) = tight_devices(two_stages(12 * 10**9, 12 * 10**9), mixed)
    assert "stage 1" in warning


def test_devices_that_say_nothing_are_not_warned_about():
    assert tight_devices(two_stages(10**15, 10**15), jax.devices()) == ()
