"""What an error says would make a model fit does make it fit, when the user does it."""

from dataclasses import replace
from functools import cache
from typing import Any

import optax
import pytest

import planner
from planner import models, would_fit
from planner.errors import MemoryLimitError

CPU = planner.cluster("cpu-8")
ONE: dict[str, Any] = {"stages": 1, "microbatches": 1}
DATA: dict[str, Any] = {**ONE, "recipe": "data"}


@pytest.fixture(autouse=True)
def time_to_try_everything(monkeypatch):
    """A busy machine must not cut the answer short."""
    monkeypatch.setattr(would_fit, "SECONDS", 3600.0)


@cache
def wide():
    """Parameters and their state outweigh activations."""
    return models.build("mlp-tiny", batch_size=16, dtype="float32", hidden=128, layers=3)


@cache
def long(batch: int = 64):
    """Activations outweigh parameters."""
    return models.build("gpt-tiny", batch_size=batch, dtype="float32", hidden=32, layers=1, sequence=64)


def peak(model, **pins) -> int:
    return planner.plan(model, CPU, **pins).peak_bytes


def limited(less: int, more: int):
    """Devices that a plan which needs less fits with room to spare, and one which needs more doesn't."""
    assert less < more
    room = (less + more) / 2 / (1 - CPU.device.memory_margin)
    return replace(CPU, device=replace(CPU.device, memory_bytes=int(room)))


def said(model, cluster, **pins) -> str:
    """What the error says would make it fit."""
    with pytest.raises(MemoryLimitError) as caught:
        planner.plan(model, cluster, **pins)
    assert "alone makes it fit" in caught.value.mend or "this makes it fit" in caught.value.mend
    return caught.value.mend


def test_a_recipe_that_shards_more_and_dropping_the_pin():
    small = limited(peak(wide(), **ONE, recipe="zero-1"), peak(wide(), **DATA))
    mend = said(wide(), small, **DATA)
    assert "recipe='zero-1' instead of 'data'" in mend and "no pin recipe='data'" in mend
    assert planner.plan(wide(), small, **ONE, recipe="zero-1").peak_bytes <= small.device.usable_bytes
    assert planner.plan(wide(), small, **ONE).peak_bytes <= small.device.usable_bytes


def test_the_smallest_batch_and_the_fewest_microbatches():
    more: dict[str, Any] = {"recipe": "data", "stages": 1, "microbatches": 2}
    small = limited(peak(long(), **more), peak(long(), **DATA))
    mend = said(long(), small, **DATA)
    assert "microbatches=2 instead of 1" in mend
    assert planner.plan(long(), small, **more).stages
    half, quarter = "a batch of 32 instead of 64" in mend, "a batch of 16 instead of 64" in mend
    assert half != quarter
    assert planner.plan(long(32 if half else 16), small, **DATA).stages


@pytest.mark.slow
def test_recomputation_where_a_pin_forbids_it():
    pins: dict[str, Any] = {"recipe": "data", "stages": 2, "microbatches": 4, "mesh_axes": (("data", 4),),
                            "schedule": "1f1b"}
    small = limited(peak(long(), recompute="selected", **pins), peak(long(), recompute="none", **pins))
    mend = said(long(), small, recompute="none", **pins)
    assert "recompute='selected'" in mend and "no pin recompute='none'" in mend
    assert planner.plan(long(), small, recompute="selected", **pins).peak_bytes <= small.device.usable_bytes


def test_first_moments_in_sixteen_bits():
    low = models.build("mlp-tiny", batch_size=16, dtype="float32", hidden=128, layers=3,
                       optimizer=optax.adamw(3e-4, mu_dtype="bfloat16"))
    small = limited(peak(low, **DATA), peak(wide(), **DATA))
    assert "first moments in bfloat16 (optax: mu_dtype=jnp.bfloat16)" in said(wide(), small, **DATA)
    assert planner.plan(low, small, **DATA).peak_bytes <= small.device.usable_bytes


@pytest.mark.slow
def test_larger_devices_and_more_of_them():
    model = long()
    small = limited(planner.plan(model, replace(CPU, nodes=2), **DATA).peak_bytes, peak(model, **DATA))
    mend = said(model, small, **DATA)
    size = next(float(part.split(" GB")[0]) for part in mend.split("devices of ")[1:])
    larger = replace(small, device=replace(small.device, memory_bytes=int(size * 1e9 * 1.005)))
    assert planner.plan(model, larger, **DATA).stages
    count = next(k for k in (2, 4, 8, 16) if f"{8 * k} devices instead of 8" in mend)
    assert planner.plan(model, replace(small, nodes=count), **DATA).stages
    assert count == 2 or f"{4 * count} devices instead of 8" not in mend


def test_a_model_far_too_large_is_told_what_it_was():
    """Nothing that is tried fits a thousandth of what is needed but devices of another size."""
    tiny = replace(CPU, device=replace(CPU.device, memory_bytes=peak(wide(), stages=1) // 1000))
    mend = said(wide(), tiny, **DATA)
    assert "devices of " in mend and "microbatches" not in mend
