"""Predicted memory against what XLA allocates, where gradients and parameters outweigh activations."""

import jax
import pytest

import planner
from planner import models
from planner.runtime import compile_plan


@pytest.mark.parametrize(("recipe", "microbatches"), [("data", 1), ("fsdp", 1)])
def test_gradients_that_are_combined_at_once_are_counted_twice(recipe, microbatches):
    """XLA on CPU sums all gradients in one all-reduce: what goes in and what comes out are alive together."""
    model = models.build("gpt-tiny", batch_size=16, dtype="float32", hidden=256, layers=3)
    record = planner.plan(model, planner.cluster("cpu-8"), recipe=recipe, stages=1, microbatches=microbatches).record
    step, state = compile_plan(record, model, jax.devices()[:8], params=models.init(model, seed=0))
    used = step.lower(state, models.random_batch(model, seed=0)).compile().memory_analysis()
    real = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes \
        - used.alias_size_in_bytes
    assert 0.97 * real < record.stages[0].memory.total_bytes < 1.1 * real
