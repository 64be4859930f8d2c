"""Tied weights: one decision for all that read them, and one sum of what they contribute."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import optax
import pytest

import planner
from planner import models
from planner.core.plan import Collective, PlanRecord
from planner.model import Model
from tests.intraop.programs import struct

TABLE = 256 * 64
"""Elements of the embedding of gpt-tiny."""


def planned(**pins: Any) -> PlanRecord:
    dtype = pins.pop("dtype", "float32")
    cluster = planner.cluster(pins.pop("cluster", "dgx-h100"))
    return planner.plan(models.build("gpt-tiny", dtype=dtype, batch_size=32, layers=2), cluster, **pins).record


def syncs(record: PlanRecord, path: str = "embedding") -> list[Collective]:
    return [c for s in record.stages for c in s.collectives if c.where == f"gradient of {path}"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_gradients_of_a_tied_embedding_are_combined_in_one_sum(dtype):
    """Once a batch, in float32, however the layers were priced apart: two 16-bit gradients of two microbatches would be
    as many bytes as the lookup's alone at the end."""
    record = planned(dtype=dtype, recipe="data", stages=1, microbatches=2)
    (sync,) = syncs(record)
    assert (sync.kind, sync.per, sync.count, sync.bytes) == ("all-reduce", "batch", 1, 4 * TABLE)
    assert next(p for p in record.params if p.path == "embedding").deferred


def test_without_microbatches_float32_gradients_are_added_first_and_16_bit_ones_are_not():
    (sync,) = syncs(planned(recipe="data", stages=1, microbatches=1))
    assert (sync.count, sync.bytes) == (1, 4 * TABLE)
    (each,) = syncs(planned(dtype="bfloat16", recipe="data", stages=1, microbatches=1))
    assert (each.count, each.bytes) == (2, 2 * 2 * TABLE)


def test_stages_that_share_a_parameter_agree_on_when_its_gradient_is_combined():
    """Each combines its own part; the update is where the first is."""
    record = planned(dtype="bfloat16", recipe="data", stages=2, microbatches=2)
    per_stage = [[c for c in s.collectives if c.where == "gradient of embedding"] for s in record.stages]
    assert [[(c.per, c.count, c.bytes) for c in own] for own in per_stage] == [[("batch", 1, 4 * TABLE)]] * 2


@pytest.mark.parametrize("microbatches", [1, 2])
def test_every_reader_works_from_where_the_parameter_is_stored(microbatches):
    """Under tensor parallelism the lookup would keep the table whole and the logits would split it: one of them has to
    gather, and the plan says so."""
    record = planned(cluster="cpu-8", recipe="tensor", stages=1, microbatches=microbatches)
    moved = [c for c in record.stages[0].collectives if c.kind == "all-gather" and "embedding" in c.where]
    assert sum(c.bytes for c in moved) == 4 * TABLE * sum(c.count for c in moved) > 0


def test_a_weight_of_every_layer_is_held_and_combined_once():
    """Four layers of one class share their only weight."""
    def loss(params: Any, batch: Any) -> Any:
        x = batch
        for _ in range(4):
            x = jnp.tanh(x @ params["w"])
        return jnp.mean(x**2)

    model = Model(loss, {"w": struct(64, 64)}, struct(64, 64), optax.sgd(0.1), name="shared")
    record = planner.plan(model, planner.cluster("dgx-h100"), recipe="data", stages=1, microbatches=2).record
    (sync,) = syncs(record, "w")
    assert (sync.per, sync.count, sync.bytes) == ("batch", 1, 4 * 64 * 64)


def test_a_shared_parameter_makes_a_step_no_slower_than_its_recipe():
    roomy = planned(recipe="data", stages=1, microbatches=2)
    free = planned(stages=1, microbatches=2)
    assert free.step_time_s <= roomy.step_time_s
    assert replace(free).lower_bound_s <= free.step_time_s
