"""A tied embedding from plan to numbers: its gradients are one sum on a stage, and training is that of one device."""

from dataclasses import replace

import pytest

import planner
from planner import models
from planner.core.hardware import Cluster


def four() -> Cluster:
    return replace(planner.cluster("cpu-8"), devices_per_node=4)


@pytest.mark.parametrize(("stages", "microbatches"), [
    pytest.param(1, 1, marks=pytest.mark.slow), pytest.param(1, 2, marks=pytest.mark.slow), (2, 2)])
def test_a_tied_embedding_trains_as_on_one_device(stages, microbatches):
    model = models.build("gpt-tiny", dtype="float32", layers=2, sequence=8, hidden=16, heads=4, batch_size=16)
    plan = planner.plan(model, four(), recipe="data", stages=stages, microbatches=microbatches)
    synced = [c for s in plan.stages for c in s.collectives if c.where == "gradient of embedding"]
    assert [(c.count, c.bytes) for c in synced] == [(1, 4 * 256 * 16)] * stages
    report = plan.check(model, steps=1)
    assert report.passed, str(report)
    for stage in plan.verify(model, "local").stages:
        assert stage.unforeseen == stage.absent == ()
        assert stage.made_traffic == stage.foreseen_traffic > 0
