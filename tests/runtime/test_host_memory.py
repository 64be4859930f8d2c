"""What waits in the host's memory: training stays the same, and arrays lie where the plan says."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import optax
import pytest

from planner.core.plan import DEVICE, HOST
from planner.emit.payloads import InMemory
from planner.emit.rewritten import rewritten
from planner.errors import PlanMismatchError
from planner.runtime import host_transfers
from planner.runtime.compile import build_step
from planner.trace import trace_program
from tests.runtime import models
from tests.runtime.harness import assert_same_training
from tests.runtime.plans import Design, record_of, whole
from tests.runtime.test_training import column, over

EVERYTHING = Design(opt_on_host=lambda path: True)
DESIGNS = {
    "data": EVERYTHING,
    "some parameters": Design(opt_on_host=lambda path: path in ("layer1/w", "layer3/b")),
    "fsdp, microbatches": Design(stored=over((0,)), used=whole, microbatches=2, opt_on_host=lambda path: True),
    "zero": Design(updated=over((0,)), opt_on_host=lambda path: True),
    "mixed": Design(mesh_shape=(4, 2), stored=column, opt_on_host=lambda path: True),
    "2 stages of 4": Design(stages=2, mesh_shape=(4,), microbatches=4, opt_on_host=lambda path: True),
    "4 stages, some of the first": Design(stages=4, mesh_shape=(), batch_axes=(), microbatches=2,
                                          opt_on_host=lambda path: path.startswith("layer0")),
}


def kinds(arrays) -> set[str]:
    return {x.sharding.memory_kind for x in arrays}


@pytest.mark.parametrize("name", DESIGNS)
def test_optimizer_state_on_the_host(name):
    design = DESIGNS[name]
    _, state = assert_same_training(models.mlp, design)
    for place, leaf in zip(state.layout.opt_state, state.opt_leaves, strict=True):
        wanted = HOST if leaf.ndim and design.opt_on_host(place.path.split("/", 2)[-1]) else DEVICE
        assert leaf.sharding.memory_kind == wanted, place.path
    assert kinds(state.param_leaves) == {DEVICE}


@pytest.mark.parametrize("optimizer", [
    optax.sgd(0.1, momentum=0.9), optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2)),
    optax.chain(optax.adamw(1e-2), optax.clip_by_global_norm(0.1))])
def test_optimizers(optimizer):
    """The last needs every parameter's moments before it can update one."""
    for design in (EVERYTHING, DESIGNS["2 stages of 4"]):
        _, state = assert_same_training(models.mlp, design, optimizer=optimizer)
        assert kinds(x for x in state.opt_leaves if x.ndim) == {HOST}


def test_rows_of_stacked_layers():
    """bf16 compute, see `test_training.py`."""
    assert_same_training(models.stacked, EVERYTHING, tolerance=2e-2)


def test_devices_without_host_memory_are_named():
    model = models.mlp()
    unlike = [SimpleNamespace(process_index=0, addressable_memories=lambda: [SimpleNamespace(kind="device")])] * 8
    with pytest.raises(PlanMismatchError, match=r"(?s)pinned_host.*it knows device.*none"):
        build_step(record_of(model, EVERYTHING), model, unlike)


def test_tied_weights():
    assert_same_training(models.tied, DESIGNS["2 stages of 4"])


def test_devices_hold_two_parts_at_most():
    """Live arrays of the shape of a weight, counted whenever a transfer is waited for: gradients of all 4, new
    parameters, and of moments, of which there are 2 a weight, those of two parts."""
    step, state = assert_same_training(models.mlp, EVERYTHING)
    elsewhere = {id(x) for x in jax.live_arrays()}
    seen: list[int] = []
    wait = host_transfers.jax.block_until_ready

    def look(arrays):
        seen.append(sum(id(x) not in elsewhere and x.shape == (models.WIDTH, models.WIDTH)
                        and x.sharding.memory_kind == DEVICE for x in jax.live_arrays()))
        return wait(arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_transfers.jax, "block_until_ready", look)
        step(state, models.mlp().batch)
    assert 4 + 2 < max(seen) <= 4 + 4 + 2 * 2


@pytest.mark.parametrize(("stages", "mesh_shape", "microbatches", "schedule"), [
    (4, (2,), 8, "1f1b"), (4, (2,), 4, "1f1b"), (2, (4,), 4, "gpipe")])
def test_activations_wait_on_the_host(stages, mesh_shape, microbatches, schedule, monkeypatch):
    sent: list[int] = []
    moved = host_transfers.moved

    def told(array, where):
        sent.append(where.memory_kind == HOST)
        return moved(array, where)

    monkeypatch.setattr(host_transfers, "moved", told)
    design = Design(stages=stages, mesh_shape=mesh_shape, microbatches=microbatches, schedule=schedule, offload=True)
    assert_same_training(models.mlp, design)
    assert sum(sent) * 2 == len(sent) > 0, "what goes comes back"


def test_state_and_tied_weights_with_activations_on_the_host():
    design = Design(stages=2, mesh_shape=(4,), microbatches=4, schedule="gpipe", offload=True,
                    opt_on_host=lambda _: True)
    assert_same_training(models.tied, design)
    assert_same_training(models.stateful, replace(design, opt_on_host=lambda _: False))


@pytest.mark.parametrize("design", [
    Design(layers_per_stage=3, offload=True), Design(layers_per_stage=3, offload=True, microbatches=2),
    Design(mesh_shape=(4, 2), stored=column, layers_per_stage=2, offload=True, recompute=True, microbatches=2),
    Design(stored=over((0,)), used=whole, layers_per_stage=2, offload=True, opt_on_host=lambda _: True)])
def test_one_stage_copies_activations_to_the_host_and_back(design):
    record = record_of(models.mlp(), design)
    given, _ = rewritten(record, trace_program(models.mlp(), design.microbatches))
    copies = [op.payload.memory for op in given.graph.ops if isinstance(op.payload, InMemory)]
    assert copies.count(HOST) == copies.count(DEVICE) > 0
    assert_same_training(models.mlp, design)
