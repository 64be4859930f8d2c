"""`plan()`: determinism, pins, recipes, bounds, bad input."""

import dataclasses
import json

import jax.numpy as jnp
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name

import planner
from planner import models, would_fit
from planner.errors import BatchError, MemoryLimitError, MeshError, ModelError, PinError, TraceError, UnknownNameError
from planner.model import Model
from tests.intraop.programs import mlp, mlp_step, struct, transformer

CPU = planner.cluster("cpu-8")
SMALL = transformer(layers=2, width=32, heads=4, sequence=16, vocabulary=64, batch=8)


def spec_of(plan, path):
    return next(p for p in plan.record.params if p.path == path)


def test_the_same_input_gives_the_same_bytes():
    assert planner.plan(SMALL, CPU).to_json() == planner.plan(SMALL, CPU).to_json()


@pytest.mark.parametrize("model", [mlp(), SMALL], ids=["mlp", "transformer"])
def test_no_recipe_beats_the_plan_and_the_bound_holds(model):
    plan = planner.plan(model, CPU)
    assert plan.baselines
    assert all(b.step_time_s >= plan.step_time_s * (1 - 1e-9) for b in plan.baselines if b.step_time_s is not None)
    assert 0 <= plan.record.lower_bound_s <= plan.step_time_s


def test_data_parallel_replicates_parameters_and_fsdp_shards_them():
    data = planner.plan(SMALL, CPU, recipe="data", stages=1)
    fsdp = planner.plan(SMALL, CPU, recipe="fsdp", stages=1)
    assert all(not any(p.spec) for p in data.record.params)
    assert all(any(p.spec) for p in fsdp.record.params)
    assert fsdp.memory[0].params_bytes < data.memory[0].params_bytes / 4


@pytest.mark.parametrize("axes", [(("data", 8),), (("data", 2), ("model", 4)), (("a", 2), ("b", 2), ("c", 2))])
def test_pinned_mesh_axes_are_used_in_one_two_and_three_dimensions(axes):
    stage = planner.plan(SMALL, CPU, mesh_axes=axes, stages=1, microbatches=1).stages[0]
    assert tuple(zip(stage.mesh_axes, stage.mesh_shape, strict=True)) == axes


def test_a_pinned_parameter_keeps_its_spec():
    plan = planner.plan(SMALL, CPU, mesh_axes=(("data", 2), ("model", 4)), stages=1, microbatches=1,
                        params=(("blocks/*/up", (None, "model")),))
    assert spec_of(plan, "blocks/0/up").spec == ((), (1,))
    assert spec_of(plan, "blocks/1/up").spec == ((), (1,))


def test_a_pinned_activation_keeps_its_spec():
    def loss(w, x):
        hidden = checkpoint_name(x @ w, "hidden")
        return jnp.mean(hidden**2)

    model = Model(loss, struct(64, 64), struct(32, 64), optax.sgd(0.1))
    plan = planner.plan(model, CPU, mesh_axes=(("d", 8),), stages=1, microbatches=1,
                        activations=(("hidden", (None, "d")),))
    specs = dict(plan.stages[0].specs)
    assert ((), (0,)) in specs.values()


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_pinned_stage_counts(stages):
    plan = planner.plan(SMALL, CPU, stages=stages, microbatches=4)
    assert len(plan.stages) == stages
    assert sorted(d for s in plan.stages for d in s.devices) == list(range(8))
    assert [s.in_flight for s in plan.stages] == [min(stages - n, 4) for n in range(stages)]


def test_pinned_boundaries():
    plan = planner.plan(SMALL, CPU, boundaries=(2,), microbatches=2)
    assert [s.layers for s in plan.stages] == [(0, 2), (2, len(plan.record.layers))]


def test_a_users_train_step_is_one_stage():
    plan = planner.plan(mlp_step(), CPU)
    assert len(plan.stages) == 1
    assert plan.microbatches == 1


@pytest.mark.parametrize(("pins", "error"), [
    ({"microbatches": 3}, BatchError),
    ({"mesh_axes": (("data", 3),)}, PinError),
    ({"stages": 2, "boundaries": (1, 2)}, PinError),
    ({"stages": 0}, PinError),
    ({"recipe": "magic"}, PinError),
    ({"schedule": "2f2b"}, UnknownNameError),
    ({"mesh_axes": (("d", 8),), "params": (("nothing/*", ("d",)),)}, PinError),
    ({"mesh_axes": (("d", 8),), "params": (("embed", ("e",)),)}, PinError),
    ({"mesh_axes": (("d", 8),), "activations": (("unnamed", ("d",)),)}, PinError),
])
def test_contradictory_pins_say_why(pins, error):
    with pytest.raises(error) as caught:
        planner.plan(SMALL, CPU, **pins)
    assert caught.value.mend


def test_a_model_too_large_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(would_fit, "SECONDS", 2.0)  # what would fit has tests of its own
    tiny = dataclasses.replace(CPU, device=dataclasses.replace(CPU.device, memory_bytes=20_000))
    with pytest.raises(MemoryLimitError, match="missing") as caught:
        planner.plan(SMALL, tiny)
    assert "devices" in caught.value.mend


def test_what_cannot_be_planned_says_so():
    with pytest.raises(ModelError, match=r"planner\.Model"):
        planner.plan(lambda x: x, CPU)  # type: ignore[arg-type]
    with pytest.raises(MeshError):
        planner.plan(SMALL, [])
    with pytest.raises(TraceError):
        planner.plan(Model(lambda p, b: float(p.sum()), struct(4), struct(8, 4), optax.sgd(0.1)), CPU)
    with pytest.raises(UnknownNameError, match="dgx-a10"):
        planner.cluster("dgx-a10")


def test_budget_and_interruption_return_the_best_so_far():
    assert planner.plan(SMALL, CPU, budget_s=0.0).step_time_s > 0

    def interrupt(text):
        if text.startswith("best so far"):
            raise KeyboardInterrupt

    assert planner.plan(SMALL, CPU, progress=interrupt).step_time_s > 0


def test_a_saved_plan_is_the_plan(tmp_path):
    plan = planner.plan(SMALL, CPU)
    plan.save(tmp_path / "p.json")
    assert planner.load(tmp_path / "p.json").to_json() == plan.to_json()
    assert json.loads((tmp_path / "p.json").read_text())


def test_planning_never_allocates_parameters():
    huge = Model(lambda w, x: jnp.mean((x @ w) ** 2), struct(1 << 18, 1 << 18), struct(8, 1 << 18), optax.sgd(0.1))
    plan = planner.plan(huge, planner.cluster("dgx-h100", nodes=4), microbatches=1)
    assert plan.step_time_s > 0  # 275 GB of parameters


def test_a_summary_names_what_an_axis_shards():
    long = transformer(layers=2, width=512, heads=8, sequence=2048, vocabulary=64, batch=1)
    axes = planner.plan(long, planner.cluster("dgx-a100"), microbatches=1, stages=1).record.stages[0].summary
    assert "sequence" in axes and "batch" not in axes
    tensor = planner.plan(SMALL, CPU, recipe="tensor", stages=1).record.stages[0].summary
    assert tensor == "x (8): weights (tensor parallel)"


def test_a_dtype_that_the_device_is_slow_in_is_a_warning():
    def build(dtype):
        return models.build("mlp-tiny", batch_size=8, dtype=dtype)

    volta, ampere = planner.cluster("p3.16xlarge"), planner.cluster("dgx-a100")
    slow = planner.plan(build("bfloat16"), volta, microbatches=1)
    assert any("float16 would be faster" in w for w in slow.record.warnings)
    assert "float16 would be faster" in " ".join(str(slow).split())
    for dtype, cluster in (("float16", volta), ("float32", volta), ("bfloat16", ampere)):
        assert not planner.plan(build(dtype), cluster, microbatches=1).record.warnings
