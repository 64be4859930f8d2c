"""What the benchmark of verified plans counts."""

import pytest
from verified import MODELS, PLANS, cluster_of, judged, line, table

from planner.verify.report import KindRow, StageReport, Surprise, VerifyReport

MIB = 1 << 20


def stage(index: int = 0, *, made: int = MIB, compiled: int = MIB, share: float = 0.0) -> StageReport:
    new = (Surprise("all-gather", "x", "step", "dot", "f32[8]", 32, 1, share),) if share else ()
    kinds = (KindRow("all-reduce", "x", 1, MIB, 1, made, MIB, made),)
    return StageReport(index, kinds, new, (), MIB, compiled, 1, 1, ())


def row(*stages: StageReport) -> dict[str, object]:
    return {"model": "m", "plan": "p", **judged(VerifyReport("m", "cpu:8", 8, stages))}


@pytest.mark.parametrize(("stages", "counts"), [
    ((stage(),), "1 100% 100% 0% 100% 100%"),
    ((stage(), stage(1, made=2 * MIB)), "1 0% 100% 0% 100% 0%"),
    ((stage(compiled=int(1.08 * MIB)),), "1 100% 100% 100% 100% 0%"),
    ((stage(compiled=int(0.8 * MIB)),), "1 100% 0% 0% 100% 0%"),
    ((stage(share=0.02), stage(1)), "1 100% 100% 0% 0% 0%"),
])
def test_a_plan_counts_if_all_its_stages_do(stages: tuple[StageReport, ...], counts: str) -> None:
    made = row(*stages)
    assert table([made]).splitlines()[-1].split() == ["all", *counts.split()]
    assert line(made).count("|") == len(stages)
    assert ("1 new" in line(made)) == (counts.split()[4] == "0%")


@pytest.mark.parametrize(("name", "target", "nodes"), [
    ("tpu-v5e", "tpu:v5e:2x4", 1), ("tpu-v5p", "tpu:v5p:2x2x2", 2), ("cpu-8", "cpu:64", 8),
    ("dgx-h100", "cuda:h100:2x8", 2)])
def test_the_cluster_is_as_large_as_the_target(name: str, target: str, nodes: int) -> None:
    assert cluster_of(name, target).nodes == nodes


def test_there_are_pipelines_and_models_of_all_kinds() -> None:
    assert {pins.get("stages", 1) for pins in PLANS.values()} == {1, 2, 4} and len(MODELS) >= 4
