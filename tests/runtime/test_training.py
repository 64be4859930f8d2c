"""Planned training equals single-device training: every kind of plan, every way that state and gradients cross
stages."""

import jax
import optax
import pytest

from planner.core.spec import replicated
from tests.runtime import models
from tests.runtime.harness import assert_same_training
from tests.runtime.plans import Design, whole


def over(axes: tuple[int, ...], size: int = 8):
    """Shard the first dimension that divides."""
    def spec(path, shape):
        dim = next((d for d, n in enumerate(shape) if n % size == 0), None)
        return tuple(axes if d == dim else () for d in range(len(shape)))
    return spec


def column(path, shape):
    """Tensor parallel over the second mesh axis."""
    return ((), (1,)) if len(shape) == 2 else replicated(len(shape))


ONE_STAGE = {
    "data": Design(),
    "operator": Design(mesh_shape=(1, 8), stored=column, batch_axes=()),
    "fsdp": Design(stored=over((0,)), used=whole),
    "zero, microbatches": Design(updated=over((0,)), microbatches=2),
    "mixed, products kept": Design(mesh_shape=(4, 2), stored=column, kept=("dot_general",), layers_per_stage=2,
                                   microbatches=2),
    "mixed, recomputed": Design(mesh_shape=(4, 2), stored=column, recompute=True, layers_per_stage=2, microbatches=2),
}
PIPELINES = {
    "2 stages of 4": Design(stages=2, mesh_shape=(4,), microbatches=4),
    "4 stages of 1, gpipe": Design(stages=4, mesh_shape=(), batch_axes=(), microbatches=2, schedule="gpipe"),
    "4 stages, mixed, recomputed": Design(stages=4, mesh_shape=(2, 1), microbatches=4, recompute=True,
                                          stored=over((0,), 2),
                                          used=whole),
}


@pytest.mark.parametrize("name", ONE_STAGE)
def test_one_stage(name):
    assert_same_training(models.mlp, ONE_STAGE[name])


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines(name):
    assert_same_training(models.mlp, PIPELINES[name])


@pytest.mark.parametrize("name", ["2 stages of 4", "4 stages, mixed, recomputed"])
def test_tied_weights_are_summed_over_stages(name):
    assert_same_training(models.tied, PIPELINES[name])


@pytest.mark.parametrize("design", [Design(microbatches=4), PIPELINES["2 stages of 4"],
                                    PIPELINES["4 stages, mixed, recomputed"]])
def test_state_goes_from_microbatch_to_microbatch(design):
    assert_same_training(models.stateful, design)


def test_skips_go_over_the_heads_of_stages():
    assert_same_training(models.skipping, PIPELINES["4 stages of 1, gpipe"])


@pytest.mark.parametrize("design", [ONE_STAGE["zero, microbatches"], PIPELINES["4 stages of 1, gpipe"]])
def test_rows_of_stacked_layers_and_clipping_across_stages(design):
    """bf16 compute: sums in another order differ by bf16 roundings, 2^-8, which Adam turns into steps of that size."""
    assert_same_training(models.stacked, design, tolerance=2e-2)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9),
                                       optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2))])
def test_optimizers_across_stages(optimizer):
    assert_same_training(models.mlp, PIPELINES["4 stages of 1, gpipe"], optimizer=optimizer)


def test_the_model_keeps_its_own_arrays():
    """A step donates its state, which must never be the user's arrays."""
    _, state = assert_same_training(models.mlp, Design())
    model = models.mlp()
    assert all(not x.is_deleted() for x in jax.tree_util.tree_leaves(model.params))
    assert all(not x.is_deleted() for x in jax.tree_util.tree_leaves(state.params))
