import multiprocessing
from dataclasses import replace

import pytest

import planner
from planner import models, profiles
from planner.errors import BatchError, MeshError, PlannerError, UnknownNameError
from planner.sweeping import run as sweeping
from planner.sweeping.grid import Point, Training
from planner.sweeping.run import Terms
from planner.sweeping.workers import shared
from tests.joint.products import chained
from tests.sweeping.models import ends, small

V100 = profiles.cluster("p3.16xlarge", devices_per_node=1)
TINY = replace(V100, name="tiny", device=replace(V100.device, memory_bytes=5000), price_usd_per_device_hour=None)


@pytest.fixture(scope="module")
def sweep():
    seen = []
    terms = Terms(Training(samples=1e6), prices={"p3.16xlarge": 2.0})
    found = planner.sweep(small, (V100, TINY), nodes=(1, 2), batches=(16, 32), terms=terms,
                          on_row=lambda row, done, total: seen.append((row, done, total)))
    assert [n for _, n, _ in seen] == list(range(1, 9)) and {t for *_, t in seen} == {8}
    return found


def test_rows_stand_in_the_order_asked_for_and_say_what_their_plans_say(sweep):
    assert [(r.cluster, r.nodes, r.batch) for r in sweep.rows] == [
        (c, n, b) for c in ("p3.16xlarge", "tiny") for n in (1, 2) for b in (16, 32)]
    row = sweep.rows[3]
    plan = planner.plan(small(32), replace(V100, nodes=2))
    assert (row.step_time_s, row.mfu, row.gap) == (plan.step_time_s, plan.mfu, plan.gap)
    assert row.headroom_bytes == int(V100.device.usable_bytes - plan.peak_bytes)
    assert row.usd_per_hour == 4.0 and row.tokens_per_s is None
    assert row.hours == pytest.approx(1e6 / 32 * plan.step_time_s / 3600)
    assert row.usd == pytest.approx(4.0 * row.hours)
    assert sweep.complete and sweep.run == "1,000,000 samples"


def test_rewrites_are_searched_where_they_are_asked_for(tmp_path):
    pins = planner.Pins(rewrite="joint", allow=("reassociate_right",))
    plain = planner.sweep(chained, (V100,), batches=(16,)).rows[0]
    joint = planner.sweep(chained, (V100,), batches=(16,), pins=pins, terms=Terms(plans=str(tmp_path))).rows[0]
    assert joint.step_time_s < plain.step_time_s
    [file] = tmp_path.iterdir()
    assert {r.rewriting.rule for r in planner.load(file).record.rewrites} == {"reassociate_right"}


def test_what_does_not_fit_is_a_row_with_the_reason(sweep):
    for row in sweep.rows[4:]:
        assert row.step_time_s is None and row.usd is None and "'small'" in row.reason


def test_two_processes_find_the_same(sweep):
    terms = Terms(Training(samples=1e6), prices={"p3.16xlarge": 2.0}, jobs=2, cache=False)
    assert planner.sweep(small, (V100, TINY), nodes=(1, 2), batches=(16, 32), terms=terms) == sweep


def test_points_of_a_process_that_is_gone_say_so():
    found = planner.sweep(ends, (V100,), nodes=(1, 2), batches=(16, 32), terms=Terms(jobs=2, cache=False))
    assert found.complete and [r.step_time_s is None for r in found.rows] == [False, True, False, True]
    assert all("ended with 9" in r.reason for r in found.rows if r.batch == 32)


def test_a_model_that_no_process_can_be_given_is_refused():
    with pytest.raises(PlannerError, match="another process"):
        planner.sweep(lambda batch: small(batch_size=batch), (V100,), batches=(16, 32), terms=Terms(jobs=2))


def test_interrupted_it_has_the_rows_so_far():
    def stop(row, done, total):
        if done == 2:
            raise KeyboardInterrupt

    found = planner.sweep(small, (V100,), nodes=(1, 2), batches=(16, 32), on_row=stop)
    assert not found.complete and len(found.rows) == 2


def test_interrupted_it_leaves_no_process_behind():
    def stop(row, done, total):
        raise KeyboardInterrupt

    found = planner.sweep(small, (V100,), nodes=(1, 2), batches=(16, 32), terms=Terms(jobs=2, cache=False), on_row=stop)
    assert not found.complete and len(found.rows) == 1
    assert multiprocessing.active_children() == []


def test_points_of_a_batch_share_the_trace(monkeypatch):
    calls = []
    real = sweeping.planned.__globals__["request_for"]
    monkeypatch.setitem(sweeping.planned.__globals__, "request_for", lambda *a, **k: calls.append(a) or real(*a, **k))
    planner.sweep(small, (V100,), nodes=(1, 2), batches=(16,))
    assert len(calls) == 1


def test_tokens_and_a_model_of_one_batch(tmp_path):
    model = models.build("gpt-tiny", batch_size=8)
    found = planner.sweep(model, (V100,), terms=Terms(Training(tokens=1e6), plans=str(tmp_path)))
    row, = found.rows
    sequence = model.batch["tokens"].shape[1] if "tokens" in model.batch else max(
        x.shape[1] for x in model.batch.values())
    assert row.tokens_per_s == pytest.approx(row.samples_per_s * sequence)
    assert row.hours == pytest.approx(1e6 / row.tokens_per_s / 3600)
    saved, = tmp_path.iterdir()
    assert planner.load(saved).step_time_s == row.step_time_s
    none = planner.sweep(small, (V100,), batches=(16,), terms=Terms(Training(tokens=1e6))).rows[0]
    assert "no tokens" in none.reason


@pytest.mark.parametrize(("changed", "error", "says"), [
    ({"clusters": ("dgx-h10",)}, UnknownNameError, "dgx-h100"), ({"nodes": (0,)}, MeshError, "0 nodes"),
    ({"batches": ()}, BatchError, "at least one"), ({"batches": (0,)}, BatchError, "at least 1"),
    ({"terms": Terms(prices={"dgx": 1.0})}, PlannerError, "none of the clusters"),
    ({"terms": Terms(prices={"p3.16xlarge": -1.0})}, PlannerError, "price of p3.16xlarge"),
    ({"terms": Terms(Training(tokens=1.0, steps=2.0))}, PlannerError, "one of them"),
    ({"terms": Terms(budget_usd=0.0)}, PlannerError, "budget"), ({"terms": Terms(jobs=0)}, PlannerError, "processes"),
    ({"clusters": ()}, PlannerError, "no clusters")])
def test_what_makes_no_sense_is_refused_before_anything_is_planned(changed, error, says):
    asked = {"clusters": (V100,), "batches": (16,), **changed}
    with pytest.raises(error, match=says):
        planner.sweep(small, asked.pop("clusters"), **asked)


def test_a_cluster_of_several_parts_is_one_point_with_the_price_of_all():
    both = "p3.16xlarge:1x1+dgx-a100:1x1"
    found = planner.sweep(small, (both, V100), nodes=(1, 2), batches=(16,), terms=Terms(prices={"p3.16xlarge": 2.0}))
    assert [(r.place, r.devices) for r in found.rows] == [(both, 2), ("1 × p3.16xlarge", 1), ("2 × p3.16xlarge", 2)]
    a100 = profiles.cluster("dgx-a100").price_usd_per_device_hour
    assert found.rows[0].usd_per_hour == pytest.approx(2.0 + a100) and found.rows[0].step_time_s is not None


def test_processes_get_whole_batches_where_there_are_enough():
    points = [Point(n, V100, batch) for n, batch in enumerate((16, 32, 16, 32, 64))]
    assert [[p.number for p in share] for share in shared(points, 2)] == [[0, 2, 4], [1, 3]]
    assert [[p.number for p in share] for share in shared(points[:1] + points[2:3], 2)] == [[0], [2]]
