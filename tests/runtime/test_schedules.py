"""Every schedule trains as a single device does: several stages per rank, and backwards in two parts, included."""

from dataclasses import replace

import jax
import optax
import pytest

from planner.core.layout import Placement
from planner.errors import PlanMismatchError
from planner.runtime import compile_plan
from planner.schedules import SCHEDULES, Kind
from tests.runtime import models
from tests.runtime.harness import assert_same_training, reference
from tests.runtime.plans import Design, record_of, whole
from tests.runtime.test_training import over

LOOP = Design(stages=4, chunks=2, placement=Placement.LOOP, mesh_shape=(4,), microbatches=4, schedule="interleaved")
TWO = Design(stages=2, mesh_shape=(4,), microbatches=4, schedule="zb-h1", layers_per_stage=2)
VEE = Design(stages=4, chunks=2, placement=Placement.VEE, mesh_shape=(4,), microbatches=4, schedule="zb-v",
             layers_per_stage=2)
FOUR = Design(stages=4, mesh_shape=(2,), microbatches=8, schedule="zb-h1", layers_per_stage=2)
DESIGNS = {
    "interleaved, 2 ranks": LOOP,
    "interleaved, 4 ranks of 2": Design(stages=8, chunks=2, placement=Placement.LOOP, mesh_shape=(2,), microbatches=4,
                                        schedule="interleaved", recompute=True),
    "zb-h1, 2 ranks": TWO,
    "zb-h1, 4 ranks, recomputed, sharded": Design(stages=4, mesh_shape=(2,), microbatches=8, schedule="zb-h1",
                                                  layers_per_stage=2, recompute=True, stored=over((0,), 2), used=whole),
    "zb-v, 2 ranks": VEE,
    "zb-v, 4 ranks, recomputed": Design(stages=8, chunks=2, placement=Placement.VEE, mesh_shape=(2,), microbatches=8,
                                        schedule="zb-v", recompute=True),
    "zb-v, activations on the host": replace(VEE, offload=True),
    "zb-h1, all but products made again": replace(TWO, recompute=True, kept=("dot_general",)),
    "zb-h1, one layer per stage, gradients summed once": Design(stages=4, mesh_shape=(2,), microbatches=4,
                                                                schedule="zb-h1", deferred=True),
}


def adamw():
    return optax.adamw(1e-2)


def sgd():
    return optax.sgd(0.1)


@pytest.mark.parametrize("name", DESIGNS)
def test_schedules_train_as_one_device_does(name):
    assert_same_training(models.mlp, DESIGNS[name], layers=8)


@pytest.mark.parametrize("design", [LOOP, TWO], ids=lambda d: d.schedule)
def test_with_sgd_too(design):
    assert_same_training(models.mlp, design, optimizer=sgd(), layers=8)


@pytest.mark.parametrize("design", [LOOP, TWO, VEE], ids=lambda d: d.schedule)
def test_tied_weights_are_summed_over_stages_and_ranks(design):
    """The embedding is read by the first and the last stage, which under ZB-V are on one rank; where the backward is in
    two, their weight gradients come at other times."""
    assert_same_training(models.tied, design)


@pytest.mark.parametrize("design", [LOOP, VEE], ids=lambda d: d.schedule)
def test_state_and_skips_go_through_virtual_stages(design):
    assert_same_training(models.stateful, design)
    assert_same_training(models.skipping, design)


def test_rows_of_stacked_layers_in_16_bit():
    """The tolerance of bf16: sums in another order differ by 2^-8, which Adam turns into steps of that size."""
    assert_same_training(models.stacked, TWO, tolerance=2e-2)


def test_the_weight_gradient_is_a_program_of_its_own():
    """Under ZB-H1 the products with the activations are in it, and those with the weights are not."""
    model, _, _ = reference(models.mlp, 4, layers=8)
    step, _ = compile_plan(record_of(model, FOUR), model, jax.devices())
    functions = step.parts.stages[2]
    assert set(functions.codes) == {Kind.FORWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT}
    assert functions.summing is Kind.WEIGHT_GRADIENT
    graph = step.parts.code.given.graph
    products = {kind: sum(graph.ops[n].primitive == "dot_general" for n in code.ops)
                for kind, code in functions.codes.items()}
    assert products == {Kind.FORWARD: 2, Kind.INPUT_GRADIENT: 2, Kind.WEIGHT_GRADIENT: 2}


def test_the_first_stage_may_have_no_input_gradient():
    model, _, _ = reference(models.mlp, 4, layers=8)
    step, _ = compile_plan(record_of(model, DESIGNS["zb-h1, one layer per stage, gradients summed once"]), model,
                           jax.devices())
    first, second = (stage.codes[Kind.INPUT_GRADIENT] for stage in step.parts.stages[:2])
    assert not first.ops and not first.makes
    assert second.ops and second.makes


def test_losses_are_the_same_bits_under_every_schedule():
    """The same stages on other ranks: microbatches are summed in one order, and each part of a backward is computed as
    in the whole (float32 on CPU)."""
    model, batches, _ = reference(models.mlp, 4, layers=8)
    same = Design(stages=4, mesh_shape=(2,), microbatches=4, layers_per_stage=2)
    found = {}
    for name in (n for n in SCHEDULES if SCHEDULES[n].trains):
        schedule = SCHEDULES[name]
        design = replace(same, schedule=name, placement=schedule.placement, chunks=schedule.chunks[0])
        step, state = compile_plan(record_of(model, design), model, jax.devices()[:2 * design.layout.ranks])
        for batch in batches:
            state, metrics = step(state, batch)
        found[name] = float(metrics["loss"])
    assert len(found) >= 5 and len(set(found.values())) == 1


def test_a_schedule_that_the_stages_do_not_fit_is_refused():
    model, _, _ = reference(models.mlp, 4, layers=8)
    wrong = Design(stages=4, mesh_shape=(2,), microbatches=4, schedule="interleaved")
    with pytest.raises(PlanMismatchError, match="2 or more stages per rank in a loop"):
        compile_plan(record_of(model, wrong), model, jax.devices())
