"""A run that is interrupted and resumed has the loss curve of one that is not, under its plan and under others."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from planner.core.plan import DEVICE, HOST
from planner.errors import PlanMismatchError
from planner.model import abstract
from tests.checkpoint.runs import EVERY, STEPS, only_losses, open_run, plan_of, train
from tests.runtime import models
from tests.runtime.harness import numbers
from tests.runtime.plans import Design, whole


def over_first(path, shape):
    return ((0,), *(() for _ in shape[1:])) if shape and shape[0] % 8 == 0 else tuple(() for _ in shape)


DATA8 = Design(microbatches=2)
DATA4 = Design(mesh_shape=(4,), microbatches=2)
FSDP8 = Design(stored=over_first, used=whole, microbatches=2)
TWO_STAGES = Design(stages=2, mesh_shape=(4,), microbatches=2)
HOST8 = replace(DATA8, opt_on_host=lambda path: True)
BUILDERS = {"mlp": models.mlp, "stateful": models.stateful, "tied": models.tied, "stacked": models.stacked}
NAMES = ("mlp", "stateful", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tied", "stacked")))

# Sums over other devices come in another order: float32 roundings, of which Adam makes steps a few times larger.
ROUNDING = 2e-5
# `stacked` computes in bfloat16: other orders of summing differ by its roundings, 2^-8, as in tests/runtime.
TOLERANCES = {"mlp": ROUNDING, "stateful": ROUNDING, "tied": ROUNDING, "stacked": 2e-2}


def resumed(folder, model, first: Design, then: Design):
    """(losses after the interruption, those of the uninterrupted run under the first plan)."""
    wanted = only_losses(folder, model, first)
    before, _ = train(folder / "cut", model, first, until=5)
    assert before == {n: wanted[n] for n in range(5)}, "saving changed the run itself"
    found, run = train(folder / "cut", model, then)
    assert run.done == 4
    assert sorted(found) == [4, 5]
    return found, {n: wanted[n] for n in found}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("design", [FSDP8, TWO_STAGES], ids=["fsdp", "2 stages"])
def test_under_the_same_plan_every_bit_is_the_same(tmp_path, name, design):
    found, wanted = resumed(tmp_path, BUILDERS[name](), design, design)
    assert found == wanted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("first", "then"), [(FSDP8, DATA4), (TWO_STAGES, DATA8), (DATA4, TWO_STAGES)],
                         ids=["fsdp on 8 to data on 4", "2 stages to 1", "1 stage on 4 to 2 on 8"])
def test_under_another_plan_the_curve_goes_on(tmp_path, name, first, then):
    found, wanted = resumed(tmp_path, BUILDERS[name](), first, then)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=TOLERANCES[name])


@pytest.mark.parametrize(("first", "then"), [
    pytest.param(HOST8, HOST8, marks=pytest.mark.slow, id="host to host"),
    pytest.param(HOST8, TWO_STAGES, id="host to devices"), pytest.param(TWO_STAGES, HOST8, id="devices to host")])
def test_optimizer_state_comes_from_and_goes_to_host_memory(tmp_path, first, then):
    found, wanted = resumed(tmp_path, models.mlp(), first, then)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=ROUNDING)
    _, run = open_run(tmp_path / "cut", models.mlp(), then)
    kinds = {x.sharding.memory_kind for x in run.state.opt_leaves if x.ndim}
    assert kinds == {HOST if then is HOST8 else DEVICE}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_number_comes_back_where_the_new_plan_wants_it(tmp_path, name):
    """Parameters, optimizer state and state, bit for bit, in the shardings of a state that the new plan begins with."""
    model = BUILDERS[name]()
    checkpoints, run = open_run(tmp_path, model, TWO_STAGES)
    state, _ = run.step(run.state, model.batch)
    saved = [numbers(x) for x in jax.tree_util.tree_leaves(state)]
    with checkpoints:
        assert checkpoints.save(1, state, force=True)
    _, again = open_run(tmp_path, model, FSDP8)
    placed = plan_of(model, FSDP8).compile(model, jax.devices())[1]
    pairs = zip(saved, jax.tree_util.tree_leaves(again.state), jax.tree_util.tree_leaves(placed), strict=True)
    for old, new, wanted in pairs:
        np.testing.assert_array_equal(old, numbers(new))
        assert (new.sharding, new.dtype) == (wanted.sharding, wanted.dtype)


def test_a_model_without_numbers_is_resumed(tmp_path):
    model = models.mlp()
    wanted = only_losses(tmp_path, model, DATA8)
    train(tmp_path / "cut", model, DATA8, until=4)
    shapes = models.Model(model.fn, abstract(model.params), abstract(model.batch), model.optimizer, name=model.name)
    found, run = train(tmp_path / "cut", shapes, DATA8)
    assert run.done == 4
    assert found == {n: wanted[n] for n in (4, 5)}


def test_saving_does_not_read_what_the_next_step_writes(tmp_path):
    """The next step takes over the buffers of a state that is still being written."""
    model = models.mlp()
    checkpoints, run = open_run(tmp_path, model, DATA8, keep=STEPS)
    state, kept = run.state, {}
    with checkpoints:
        for n in range(STEPS):
            state, _ = run.step(state, model.batch)
            kept[n + 1] = [numbers(x).copy() for x in jax.tree_util.tree_leaves(state)] if n == 3 else None
            checkpoints.save(n + 1, state, force=n == 3)
    shutil.rmtree(tmp_path / "6")
    _, again = open_run(tmp_path, model, DATA8)
    assert again.done == 4
    for old, new in zip(kept[4], jax.tree_util.tree_leaves(again.state), strict=True):
        np.testing.assert_array_equal(old, numbers(new))


def test_the_newest_few_are_kept(tmp_path):
    model = models.mlp()
    checkpoints, run = open_run(tmp_path, model, DATA8, keep=2)
    with checkpoints:
        saved = [checkpoints.save(n, run.state) for n in range(1, 9)]
    assert saved == [n % EVERY == 0 for n in range(1, 9)]
    assert checkpoints.counts == (6, 8)


def test_a_plan_for_other_devices_is_refused(tmp_path):
    model = models.mlp()
    train(tmp_path, model, DATA8, until=2)
    checkpoints, _ = open_run(tmp_path, model, DATA8)
    with pytest.raises(PlanMismatchError, match="the plan is for 8 devices, 4 are given"):
        checkpoints.resume(model, jax.devices()[:4])
