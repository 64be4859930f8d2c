"""A right plan passes the check; planted errors in plan and rules are found and named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner.check import check_plan
from planner.check.compare import NOISE_RUNS, _error
from planner.check.inputs import random_batch, with_numbers
from planner.check.reference import Reference
from planner.check.report import NOISE_FACTOR, CheckReport, TensorCheck
from planner.emit import binding
from planner.model import Model
from planner.runtime import stage_functions
from tests.runtime import models
from tests.runtime.plans import Design, record_of

DEVICES = 4
PIPELINE = Design(stages=2, mesh_shape=(2,), microbatches=2)


def checked(model, design, **options):
    record = record_of(model, design)
    return check_plan(record, model, jax.devices()[:record.device_count], steps=2, **options)


def test_abstract_parameters_are_filled_and_a_right_plan_passes():
    model = models.mlp(layers=2)
    bare = dataclasses.replace(model, params=jax.eval_shape(lambda: model.params),
                               batch=jax.eval_shape(lambda: model.batch))
    report = checked(bare, PIPELINE)
    assert report.passed, str(report)
    assert {t.what for t in report.tensors} == {"loss", "gradient", "parameter", "optimizer"}
    assert len(report.losses) == 2


def test_a_gradient_that_is_lost_is_found(monkeypatch):
    """Plant: the accumulation over microbatches forgets what was there."""
    monkeypatch.setattr(stage_functions, "_plus", lambda total, parts: sum(parts) + 0 * total)
    report = checked(models.mlp(layers=2), PIPELINE)
    assert not report.passed
    assert {"gradient", "parameter"} <= {t.what for t in report.failures}
    assert "FAILED" in str(report)


def test_only_a_tensor_that_would_fail_asks_for_more_perturbed_runs(monkeypatch):
    runs = []
    run = Reference.run
    monkeypatch.setattr(Reference, "run", lambda self, *args: runs.append(args) or run(self, *args))
    assert checked(models.mlp(layers=2), PIPELINE).passed
    assert len(runs) == 2
    monkeypatch.setattr(stage_functions, "_plus", lambda total, parts: sum(parts) + 0 * total)
    runs.clear()
    assert not checked(models.mlp(layers=2), PIPELINE).passed
    assert len(runs) == 1 + NOISE_RUNS


def test_a_wrong_split_of_deferred_gradients_is_found(monkeypatch):
    """Plant: an operand is cut along a wrong dimension, as a wrong rule would have it."""
    monkeypatch.setattr(binding, "_cut", lambda x, dim, parts: jnp.stack([x[:x.shape[0] // parts]] * parts))
    report = checked(models.mlp(layers=2), Design(mesh_shape=(2,), microbatches=2, deferred=True))
    assert not report.passed
    assert report.worst("gradient") > 0.1


def test_a_plan_may_be_nearer_to_the_truth_than_plain_jax():
    """The gradient of a bias in bfloat16 adds up thousands of rows: four devices add up a quarter of them each."""
    def loss(params, batch):
        hidden = batch.astype(jnp.bfloat16) + params["bias"].astype(jnp.bfloat16)
        return jnp.mean(jnp.square((hidden @ params["up"].astype(jnp.bfloat16)).astype(jnp.float32)))

    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.normal(size=(64, 32, 64)), jnp.float32)
    params = {"bias": jnp.full(64, 0.5), "up": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)}
    model = Model(loss, params, rows, optax.sgd(0.1), name="biased")
    report = checked(model, Design(mesh_shape=(4,), microbatches=1), batches=lambda n: rows * (n + 1))
    assert report.passed, str(report)
    off = [t for t in report.tensors if t.error > t.allowed]
    assert off and all(t.wide_error < t.plain_error for t in off)


def test_inference_compares_outputs():
    model = Model(lambda p, b: b @ p, jnp.eye(8), jnp.ones((8, 8)))
    report = checked(model, Design(mesh_shape=(2,), microbatches=2))
    assert report.passed
    assert [t.what for t in report.tensors].count("output") == 2


def test_errors_are_relative_to_the_change():
    """A weight of 100 that should move by 0.01 and stays put is wrong by all of it."""
    assert _error(np.float32(100.0), np.float32(100.01), np.float32(100.0)) == 1.0
    assert _error(np.float32(np.nan), np.float32(1.0), None) == np.inf


def test_noise_excuses_what_rounding_moves_as_much():
    found = TensorCheck("parameter", "bias", 0.5, 1e-4, 0.1)
    assert found.allowed == NOISE_FACTOR * 0.1
    assert found.passed
    assert not dataclasses.replace(found, noise=0.01).passed
    assert not CheckReport((found, dataclasses.replace(found, noise=0.0)), 1, ()).passed


def test_random_inputs_repeat_and_stay_in_range():
    model = Model(lambda p, b: b, {"k": jax.ShapeDtypeStruct((4, 4), jnp.bfloat16)},
                  {"ids": jnp.array([3, 7]), "mask": jax.ShapeDtypeStruct((2,), jnp.bool_)}, state=jax.random.key(0))
    first, again, other = random_batch(model, 1), random_batch(model, 1), random_batch(model, 2)
    np.testing.assert_array_equal(first["ids"], again["ids"])
    assert set(np.concatenate([first["ids"], other["ids"]])) <= set(range(3, 8))
    assert with_numbers(model, 0).params["k"].dtype == jnp.bfloat16
    with pytest.raises(AttributeError):
        _ = model.params["k"].nbytes
