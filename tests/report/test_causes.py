from dataclasses import replace
from pathlib import Path

import pytest

from planner.core import plan_io
from planner.core.plan import Collective, TimeParts
from planner.report import breakdown
from planner.report.causes import Cause, crosses_nodes, crossing, stage_causes, step_causes
from tests.report.records import cluster, eight_devices, sixty_four_devices, two_devices, vee

DATA = Path(__file__).parents[2] / "plots" / "data"
SAVED = tuple(plan_io.load(DATA / f"{name}.plan.json") for name in ("gpt-125m-8", "gpt-39b-64", "gpt-tiny-2"))
RECORDS = (two_devices(), eight_devices(), sixty_four_devices(), vee(), *SAVED)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.model_name}-{r.device_count}")
def test_causes_add_up_to_the_step(record):
    found = step_causes(record)
    assert min(found.values()) >= -1e-12 * record.step_time_s
    assert sum(found.values()) == pytest.approx(record.step_time_s, rel=1e-9)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.model_name}-{r.device_count}")
def test_causes_of_a_stage_add_up_to_its_work(record):
    for stage in record.stages:
        busy = sum(breakdown.stage_busy_s(stage, record.microbatches))
        assert sum(stage_causes(record, stage).values()) == pytest.approx(busy, rel=1e-9)


def moved(kind, seconds, where, per="microbatch", phase="forward"):
    return Collective(kind, (0,), 1, seconds, per, phase, where)


def test_causes_by_hand():
    """Two stages of four devices, two microbatches, each 1 s of compute; stage 1 has all that can be communicated.

    Stage 1: 2 * (1 compute + 3 reductions + 4 moves - 2 hidden) + 2 sync + 3 update = 17 s;
    stage 0: 2 s; the step 20 s. Of the reductions 1 s is gradients; of the moves 1 s gathers parameters: that is what
    hides.
    """
    moves = (moved("all-reduce", 2.0, "dot"), moved("all-reduce", 1.0, "gradient of w", phase="backward"),
             moved("all-gather", 1.0, "parameter w"), moved("all-to-all", 2.0, "dot moe.py"),
             moved("all-gather", 1.0, "add"), moved("all-reduce", 2.0, "gradient of w", "batch", "backward"),
             moved("all-gather", 1.0, "parameter w", "batch", "update"))
    one, two = eight_devices().stages
    one = replace(one, time=TimeParts(compute_s=1.0), collectives=(), send_s=0.0)
    two = replace(two, time=TimeParts(1.0, 3.0, 4.0, 2.0, 3.0, hidden_s=2.0), collectives=moves, send_s=0.0)
    record = replace(eight_devices(), stages=(one, two), microbatches=2, step_time_s=20.0)
    assert {cause: s for cause, s in stage_causes(record, two).items() if s} == {
        Cause.COMPUTE: 2.0, Cause.TENSOR: 4.0, Cause.ALL_TO_ALL: 4.0, Cause.RESHARD: 2.0, Cause.GATHER: 1.0,
        Cause.SYNC: 2.0, Cause.OPTIMIZER: 2.0}
    found = step_causes(record)
    assert found[Cause.COMPUTE] == 2.0
    assert found[Cause.TENSOR] == 2.0
    assert found[Cause.UNEVEN] == pytest.approx(7.5)  # half the devices wait 15 s
    assert found[Cause.BUBBLE] == pytest.approx(3.0)


def test_work_on_shared_cores_is_shown_as_much_shorter():
    record = replace(two_devices(), step_time_s=two_devices().step_time_s / 2)
    found = step_causes(record)
    assert sum(found.values()) == pytest.approx(record.step_time_s)
    assert found[Cause.BUBBLE] == pytest.approx(0, abs=1e-12)


def test_which_communication_is_between_nodes():
    record = eight_devices()
    stage = replace(record.stages[0], devices=tuple(range(8)), mesh_shape=(4, 2))
    two_nodes = replace(record, cluster=cluster(2, 4), stages=(stage,))
    assert crosses_nodes(two_nodes, stage, (0,))
    assert not crosses_nodes(two_nodes, stage, (1,))  # neighbours
    assert crosses_nodes(two_nodes, stage, (0, 1))
    assert crossing(record).between_s == 0
    inside = replace(stage, collectives=(moved("all-reduce", 1.0, "dot"), replace(moved("all-reduce", 3.0, "dot"),
                                                                                  axes=(1,))),
                     time=TimeParts(collective_s=4.0), send_s=0.0)
    found = crossing(replace(two_nodes, stages=(inside,), microbatches=1))
    assert (found.inside_s, found.between_s) == (3.0, 1.0)
