"""Deferred gradients: the compiled loop over microbatches has no gradient all-reduce, and the numbers stay."""

import re
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.spec import replicated
from planner.emit.annotated import annotate_program
from planner.emit.deferred import with_deferred_gradients
from planner.emit.payloads import FirstPart, Mapped
from planner.model import Model
from planner.runtime import compile_plan
from planner.trace import trace_program
from tests.integration.hlo import collectives
from tests.runtime import models
from tests.runtime.harness import assert_close, assert_same_training, reference
from tests.runtime.plans import Design, record_of

MATRIX = re.compile(r"f32\[\d+,\d+\]")


def matrix_all_reduces(text: str) -> Counter:
    """Where matrices are all-reduced: `"entry"` or `"loop"`, with the number of matrices."""
    found, place = Counter(), ""
    for line in text.splitlines():
        if line.endswith("{"):
            place = "entry" if line.startswith("ENTRY") else "loop"
        if " all-reduce(" in line or " all-reduce-start(" in line:
            found[place] += len(MATRIX.findall(line.split(" all-reduce", 1)[0]))
    return +found


def compiled(model, design):
    step, state = compile_plan(record_of(model, design), model, jax.devices())
    return step, step.lower(state, model.batch).compile().as_text()


def test_gradients_are_combined_outside_the_loop():
    """Four weight matrices, data parallel over 8 devices, 2 microbatches."""
    step, text = compiled(models.mlp(), Design(microbatches=2, deferred=True))
    assert matrix_all_reduces(text) == {"entry": 4}
    assert step.warnings == ()


def test_without_deferral_they_are_combined_in_the_loop():
    assert matrix_all_reduces(compiled(models.mlp(), Design(microbatches=2))[1]) == {"loop": 4}


@pytest.mark.parametrize("design", [Design(microbatches=4, deferred=True, mesh_shape=(2, 2), batch_axes=(0, 1)),
                                    Design(stages=2, mesh_shape=(4,), microbatches=4, deferred=True)])
@pytest.mark.parametrize("build", [models.tied, models.mlp])
def test_numbers_stay(build, design):
    """Embedding lookups (scatter-add), biases (reduce_sum) and matrices; tied weights add parts of two stages."""
    assert_same_training(build, design)


def convolution(optimizer=None):
    """Two convolutions, the second over strides and with padding on one side."""
    def loss(params, batch):
        x = jnp.tanh(jax.lax.conv(batch, params["first"], (1, 1), "SAME"))
        x = jax.lax.conv_general_dilated(x, params["second"], (2, 2), ((1, 0), (0, 1)),
                                         dimension_numbers=("NCHW", "HWIO", "NHWC"))
        return jnp.mean(x**2)

    first, second, batch = (jax.random.normal(k, s) * 0.5 for k, s in zip(
        jax.random.split(jax.random.key(0), 3), [(4, 3, 3, 3), (2, 2, 4, 5), (16, 3, 4, 4)], strict=True))
    return Model(loss, {"first": first, "second": second}, batch, optimizer or optax.adam(1e-2), name="convolution")


TENSOR = re.compile(r"f32\[\d+,\d+,\d+,\d+\]")


@pytest.mark.parametrize(("mesh_shape", "axes"), [((8,), (0,)), ((2, 4), (1,))])
def test_gradients_of_convolutions_wait_too(mesh_shape, axes):
    """Every device convolves its own examples: the loop has no communication of tensors, and no warning is given."""
    design = Design(microbatches=2, deferred=True, mesh_shape=mesh_shape, batch_axes=axes)
    step, text = compiled(convolution(), design)
    assert step.warnings == ()
    reduced = [line for line in text.splitlines() if " all-reduce(" in line and TENSOR.search(line)]
    assert sum(len(TENSOR.findall(line.split(" all-reduce", 1)[0])) for line in reduced) == 2
    assert not any("while/body" in line for line in reduced)
    assert "all-gather" not in text
    assert "feature_group_count" not in text


def test_numbers_of_convolutions_stay():
    assert_same_training(convolution, Design(microbatches=2, deferred=True, mesh_shape=(2, 4), batch_axes=(1,)))


def test_contributions_with_and_without_a_sum_over_devices_add_up():
    """Of a tied embedding, the lookup is given whole ids, so that its gradient is whole; the logits' is in parts."""
    record = record_of(models.tied(), Design(microbatches=2, deferred=True))
    program = trace_program(models.tied(), 2)
    (lookup,) = (n for n, op in enumerate(program.micro.ops) if op.primitive.startswith("scatter")
                 and program.micro.values[op.results[0]].shape == (16, models.WIDTH))
    op = program.micro.ops[lookup]
    ranks = [len(program.micro.values[o].shape) for o in op.operands if isinstance(o, int)]
    uses = tuple((lookup, k, replicated(rank)) for k, rank in enumerate(ranks))
    stage = replace(record.stages[0], uses=(*record.stages[0].uses, *uses))
    record = replace(record, stages=(stage,))
    given, warnings = with_deferred_gradients(record, annotate_program(record, program))
    given_ops = Counter(op.primitive for op in given.graph.ops)
    assert warnings == ()
    assert given_ops["first_part"] == 1
    _, batches, right = reference(models.tied, 2)
    step, state = compile_plan(record, models.tied(), jax.devices())
    for batch, wanted in zip(batches, right, strict=True):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], wanted.loss, rtol=2e-5)
    assert_close(state.params, right[-1].params, 2e-5)


def test_a_gradient_that_no_device_has_a_part_of_waits_where_it_is_made():
    """Columns of the last matrix on different devices, as tensor parallelism has them, but stored whole: its gradient
    is gathered once at the end, not in the loop."""
    def columns(path, shape):
        return ((), (0,)) if path == "2" else replicated(len(shape))

    def loss(params, batch):
        x = batch
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def build():
        keys = jax.random.split(jax.random.key(0), 4)
        weights = [jax.random.normal(k, (16, 16)) for k in keys[:3]]
        return Model(loss, weights, jax.random.normal(keys[3], (32, 16)), optax.sgd(0.1), name="columns")

    record = record_of(build(), Design(microbatches=2, deferred=True, used=columns))
    kept = tuple((p.value, p.spec) for p in record.params)  # all that is sharded follows from the columns
    record = replace(record, stages=(replace(record.stages[0], specs=kept),))
    given, warnings = with_deferred_gradients(record, annotate_program(record, trace_program(build(), 2)))
    assert warnings == ()
    assert dict(given.sums) == {(0, record.params[2].value): ((), (0,))}
    step, state = compile_plan(record, build(), jax.devices())
    found = Counter(c.in_loop for c in collectives(step.lower(state, build().batch).compile().as_text())
                    if (c.kind, c.bytes) == ("all-gather", 4 * 16 * 16))
    assert found == {False: 1}
    state, _ = step(state, build().batch)
    gradients = jax.grad(loss)(build().params, build().batch)
    assert_close(state.params, [w - 0.1 * g for w, g in zip(build().params, gradients, strict=True)], 2e-5)


def test_the_first_of_several_parts():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (one,) = FirstPart((0,), (4,)).bind([x])
    np.testing.assert_array_equal(one, np.stack([x, 0 * x, 0 * x, 0 * x]))
    (two,) = FirstPart((0, 2), (2, 4)).bind([x])
    assert two.shape == (2, 2, 4, 3)
    np.testing.assert_array_equal(two.sum((0, 2)), x)
    np.testing.assert_array_equal(two[0, :, 0], x)


def test_what_cannot_wait_is_reported():
    """A masked weight: its gradient is multiplied by a tensor after the sum. It is combined in the loop, and the step
    says so."""
    mask = jnp.tri(4)

    def loss(params, batch):
        return jnp.mean((batch @ (params * mask)) ** 2)

    model = Model(loss, jnp.ones((4, 4)), jnp.ones((16, 4)), optax.sgd(0.1), name="masked")
    step, _ = compile_plan(record_of(model, Design(microbatches=2, deferred=True)), model, jax.devices())
    assert "1 gradients are combined in every microbatch" in step.warnings[0]


class Product:
    """`[n, a] · [n, b] -> [a, b]`."""

    def bind(self, operands):
        return [jnp.einsum("na,nb->ab", *operands)]


@given(parts=st.sampled_from([1, 2, 3, 6]), seed=st.integers(0, 3))
def test_parts_add_up_to_the_whole(parts, seed):
    x, y = np.random.default_rng(seed).standard_normal((2, 6, 4)).astype(np.float32)
    (split,) = Mapped(Product(), ((0, 0),), (parts,)).bind([x, y])
    assert split.shape == (parts, 4, 4)
    np.testing.assert_allclose(split.sum(0), x.T @ y, atol=1e-5)


def test_two_dimensions_cut_one_inside_the_other():
    x = np.arange(2 * 6 * 4, dtype=np.float32).reshape(4, 6, 2)

    class Sum:
        def bind(self, operands):
            return [operands[0].sum((0, 1))]

    (split,) = Mapped(Sum(), ((0,), (1,)), (2, 3)).bind([x])
    np.testing.assert_array_equal(split, x.reshape(2, 2, 3, 2, 2).sum((1, 3)))
