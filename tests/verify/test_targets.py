"""Targets by name: those that can be had, and errors that say how to get the others."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from planner import models
from planner.errors import UnknownNameError, VerifyError
from planner.verify.gpus import GPUS, target_config
from planner.verify.targets import target_of, tpu_generation, tpu_topology
from planner.verify.verify import verify_plan


@pytest.fixture
def no_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)


RECORD = SimpleNamespace(device_count=8, cluster=SimpleNamespace(device=SimpleNamespace(name="cpu")))


@pytest.mark.usefixtures("no_compilers")
@pytest.mark.parametrize(("name", "error", "text"), [
    ("gpu", UnknownNameError, "unknown target 'gpu'"),
    ("local:8", UnknownNameError, "unknown target"),
    ("cpu", VerifyError, "not cpu:N with N from 1 to 512"),
    ("cpu:0", VerifyError, "not cpu:N"),
    ("cpu:513", VerifyError, "not cpu:N"),
    ("cpu:4", VerifyError, "has 4 devices, the plan is for 8.*\n.*cpu:8"),
    ("tpu:v5e:2x4", VerifyError, r"needs libtpu.*\n.*pip install 'jax-planner\[tpu\]'"),
    ("cuda:h100:8", VerifyError, r"needs JAX's CUDA plugin.*\n.*pip install 'jax-planner\[cuda-compile\]'"),
    ("cuda:h10:8", UnknownNameError, "unknown GPU 'h10'.*\n.*did you mean h100"),
    ("cuda:h100:x", VerifyError, "how many GPUs.*\n.*cuda:h100:8"),
    ("cuda:h100:0", VerifyError, "how many GPUs"),
])
def test_what_is_no_target_is_refused_with_the_way_out(name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"(?s){text}"):
        target_of(name, RECORD)


def test_cpus_may_be_more_than_the_process_has() -> None:
    target = target_of("cpu:12", SimpleNamespace(device_count=12))
    assert target.platform == "cpu" and len({d.id for d in target.devices}) == 12


@pytest.mark.parametrize(("device", "count", "chosen"), [
    ("cpu", 8, "local"), ("A100-SXM4-80GB", 8, "local"), ("A100-SXM4-80GB", 16, "cpu:16")])
def test_automatic_target_is_what_can_be_had(device: str, count: int, chosen: str) -> None:
    record = SimpleNamespace(device_count=count, cluster=SimpleNamespace(device=SimpleNamespace(name=device)))
    assert target_of("auto", record).name == chosen


@pytest.mark.usefixtures("no_compilers")
def test_automatic_target_of_a_tpu_plan_is_its_topology() -> None:
    record = SimpleNamespace(device_count=32, cluster=SimpleNamespace(device=SimpleNamespace(name="TPU v5p")))
    with pytest.raises(VerifyError, match="target 'tpu:v5p:2x4x4' needs libtpu"):
        target_of("auto", record)


@pytest.mark.parametrize(("generation", "chips", "shape"), [
    ("v5e", 1, "1x1"), ("v5e", 4, "2x2"), ("v5e", 8, "2x4"), ("v5e", 32, "4x8"), ("v6e", 256, "16x16"),
    ("v5p", 4, "2x2x1"), ("v5p", 8, "2x2x2"), ("v4", 16, "2x2x4"), ("v5p", 64, "4x4x4"), ("v4", 512, "8x8x8")])
def test_topologies_are_as_square_as_they_are_sold(generation: str, chips: int, shape: str) -> None:
    assert tpu_topology(generation, chips) == shape


@pytest.mark.parametrize(("generation", "chips"), [("v5e", 6), ("v9", 8), ("v5p", 2)])
def test_unknown_topologies_are_to_be_named(generation: str, chips: int) -> None:
    with pytest.raises(VerifyError, match=r"name one: --target tpu:v5p:4x4x4"):
        tpu_topology(generation, chips)


@pytest.mark.parametrize(("device", "generation"), [("TPU v5p", "v5p"), ("tpu-v5e", "v5e"), ("TPU v4", "v4"),
                                                    ("NVIDIA V100", None), ("cpu", None)])
def test_generation_is_read_from_the_device(device: str, generation: str | None) -> None:
    assert tpu_generation(device) == generation


@pytest.mark.parametrize("gpu", GPUS, ids=lambda g: g.name)
def test_gpu_descriptions_are_balanced_protos(gpu) -> None:
    text = target_config(gpu)
    assert text.count("{") == text.count("}") == 3
    assert f'device_description_str: "{gpu.product}"' in text and f"core_count: {gpu.cores}" in text


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x2"])
def test_a_tpu_that_is_not_there_compiles(topology: str) -> None:
    pytest.importorskip("libtpu", reason="compiling for TPU needs libtpu: pip install 'jax-planner[tpu]'")
    import planner

    model = models.build("gpt-tiny", dtype="bfloat16", batch_size=16, layers=1)
    record = planner.plan(model, planner.cluster("cpu-8"), recipe="data", stages=1, microbatches=2).record
    report = verify_plan(record, model, f"tpu:{topology}")
    (stage,) = report.stages
    assert stage.made_traffic > 0 and stage.programs[0].optimal_s
    assert stage.compiled_flops == pytest.approx(stage.predicted_flops, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("pins", [
    {"recipe": "fsdp", "stages": 1},
    {"recipe": "fsdp", "stages": 1, "recompute": True},
    {"recipe": "megatron", "mesh_axes": (("fsdp", 4), ("model", 2)), "stages": 1},
    {"recipe": "data", "stages": 2},
    {"recipe": "megatron", "mesh_axes": (("data", 2), ("model", 2)), "stages": 2},
], ids=lambda pins: " ".join(str(v) for v in pins.values()))
def test_plans_for_tpus_move_what_they_foresee(pins: dict[str, Any]) -> None:
    """Wide enough for TPUs to scatter sums along either dimension; of vectors, they combine the whole."""
    pytest.importorskip("libtpu", reason="compiling for TPU needs libtpu: pip install 'jax-planner[tpu]'")
    import planner

    model = models.build("mlp-tiny", dtype="bfloat16", batch_size=1024, hidden=2048, layers=4)
    record = planner.plan(model, planner.cluster("tpu-v5e"), microbatches=2, **pins).record
    report = verify_plan(record, model, "tpu:v5e:2x4")
    assert len(report.stages) == pins["stages"] and not report.findings
    for stage in report.stages:
        assert stage.made_traffic == pytest.approx(stage.foreseen_traffic, rel=0.02)
        assert stage.compiled_flops == pytest.approx(stage.predicted_flops, rel=0.1)
