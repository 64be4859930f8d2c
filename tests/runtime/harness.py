"""Run a plan and the single device side by side, and compare everything after a few steps."""

from functools import cache

import jax
import numpy as np

from planner.check.inputs import random_batch
from planner.check.reference import Reference
from planner.model import Model, leaves_with_paths
from planner.runtime import compile_plan
from tests.runtime.plans import Design, record_of

STEPS = 5


@cache
def reference(build, microbatches: int, **options):
    """(model, batches, single-device results) of a model builder, computed once for all plans."""
    model: Model = build(**options)
    batches = [random_batch(model, n) for n in range(STEPS)]
    return model, batches, Reference(model, microbatches, jax.devices()[0]).run(model.params, model.state, batches)


def assert_same_training(build, design: Design, tolerance: float = 2e-5, **options):
    """Losses of every step, and parameters, optimizer state and state after the last, equal the single-device run's."""
    model, batches, right = reference(build, design.microbatches, **options)
    record = record_of(model, design)
    step, state = compile_plan(record, model, jax.devices()[:record.device_count])
    for batch, wanted in zip(batches, right, strict=True):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], wanted.loss, rtol=tolerance)
    for found, wanted in ((state.params, right[-1].params), (state.opt_state, right[-1].opt_state),
                          (state.state, right[-1].state)):
        assert_close(found, wanted, tolerance)
    return step, state


def assert_close(found, wanted, tolerance: float):
    """Every leaf within `tolerance` of the largest magnitude of that leaf."""
    pairs = list(zip(leaves_with_paths(found), leaves_with_paths(wanted), strict=True))
    for (path, a), (other, b) in pairs:
        assert path == other
        left, right = numbers(a), numbers(b)
        np.testing.assert_allclose(left, right, atol=tolerance * max(np.abs(right).max(initial=0), 1e-3), rtol=0,
                                   err_msg=path)


def numbers(x) -> np.ndarray:
    """An array, or the data of a random key, as float64."""
    return np.asarray(jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x, np.float64)
