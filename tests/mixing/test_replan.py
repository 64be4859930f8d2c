"""Planning again after a cluster of several types, or a torus, has lost a node: from what is kept, and what moves."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import planner
from planner import replanning, trace
from planner.cache import written
from planner.cache.programs import kept_programs
from planner.cache.store import Cache
from planner.core.hardware import Cluster, Link
from planner.core.mixed import mixed
from planner.models import build
from planner.moving import moves
from planner.planned import Plan
from planner.replanning import replan
from tests.mixing.machines import cpus
from tests.test_replanning import check_pieces, counted


def two_types() -> Cluster:
    """Two nodes of two fast devices, two of two slow ones."""
    fast, slow = cpus("fast", 2, flops=3e9), cpus("slow", 2, flops=2e9)
    return mixed([replace(fast, nodes=2), replace(slow, nodes=2)], Link(1e9, 2e-5), "two types")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return planner.plan(build("mlp-tiny", batch_size=16), two_types(), cache=Cache(folder), microbatches=4, stages=2,
                        replicas=1)


@pytest.mark.parametrize("lost", ["node1", "node2", "node3.gpu1"])
def test_a_node_of_one_type_is_lost(plan: Plan, folder: Path, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is traced, and what moves is what was counted element by element."""
    monkeypatch.setattr(trace, "trace_program", lambda *_: pytest.fail("the model was traced"))
    found = replan(plan, without=[lost], cache=Cache(folder))
    new, node = found.plan.record, int(lost[4])
    assert [p.nodes for p in new.cluster.parts] == ([1, 2] if node < 2 else [2, 1])
    assert new.cluster.between == Link(1e9, 2e-5) and new.cluster.name == "two types" and len(new.stages) == 2
    update = kept_programs(Cache(folder), plan.record.fingerprint)[4].update
    was = tuple(d for d in range(8) if d // 2 != node)
    assert {d.device: (d.kept_bytes, d.moved_bytes, d.checkpoint_bytes) for d in found.moves.devices} == counted(
        plan.record, new, update, was)
    check_pieces(found.moves, plan.record, update, was)
    assert all(d.name == plan.cluster.device_name(was[d.device]) for d in found.moves.devices)
    cold = planner.plan(build("mlp-tiny", batch_size=16), new.cluster, cache=False, microbatches=4, stages=2,
                        replicas=1)
    assert new.step_time_s <= cold.step_time_s * 1.01


def test_when_the_last_node_of_a_type_is_lost_the_others_are_a_plain_cluster(plan: Plan, folder: Path) -> None:
    found = replan(plan, without=["node2", "node3"], cache=Cache(folder))
    assert found.plan.cluster == two_types().parts[0] and not found.plan.cluster.parts
    assert any("nothing is left of 4 × slow cpu" in n for n in found.notes)
    cold = planner.plan(build("mlp-tiny", batch_size=16), found.plan.cluster, cache=False, microbatches=4, stages=2)
    assert found.plan.step_time_s == pytest.approx(cold.step_time_s, rel=0.01)


def test_tables_of_both_types_are_found_again(plan: Plan, folder: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a node is lost, losing another of the same type solves nothing."""
    first = replan(plan, without=["node1"], cache=Cache(folder))
    for file in folder.iterdir():
        if not file.name.startswith(replanning.KIND):
            shutil.copy(file, tmp_path)
    monkeypatch.setattr(written, "mesh_table", lambda *_: pytest.fail("a table was solved that had been kept"))
    assert replan(plan, without=["node0"], cache=Cache(tmp_path)).plan.to_json() == first.plan.to_json()


def test_the_way_between_types_is_their_link(plan: Plan) -> None:
    """Stages that change places move all that they hold over it, two devices of a node at a time."""
    record = plan.record
    other = replace(record, stages=tuple(replace(s, devices=tuple((d + 4) % 8 for d in s.devices))
                                         for s in record.stages))
    found = moves(record, other, None, tuple(range(8)))
    if {record.cluster.part_of(s.devices[0]) for s in record.stages} == {0, 1}:
        most: dict[int, int] = {}
        for d in found.devices:
            for p in d.pieces:
                assert p.source is not None
                for node in (record.cluster.node_of(d.device), -1 - record.cluster.node_of(p.source)):
                    most[node] = most.get(node, 0) + p.bytes
        assert found.seconds == pytest.approx(max(most.values()) / 1e9 + 2e-5)


def test_a_slice_of_a_torus_goes_on(tmp_path: Path) -> None:
    on = planner.cluster("tpu-v5e", nodes=2)
    plan = planner.plan(build("mlp-tiny", batch_size=16), on, cache=Cache(tmp_path), microbatches=2, recipe="data")
    found = replan(plan, without=["node0"], cache=Cache(tmp_path))
    assert found.plan.cluster == planner.cluster("tpu-v5e", nodes=1)
    assert [d.was for d in found.moves.devices] == [8 + d for s in found.plan.record.stages for d in s.devices]
    assert "a slice by itself goes on: 2 x 4 chips of one host, from chip 8 on" in found.notes[0]


def test_replicas_share_the_batch_anew(tmp_path: Path) -> None:
    """Until one is left, which is none; what a replica has lost comes from the other."""
    cache = Cache(tmp_path)
    plan = planner.plan(build("mlp-tiny", batch_size=16), two_types(), cache=cache, microbatches=4, stages=1,
                        replicas=2)
    found = replan(plan, without=["node1"], cache=cache)
    assert len(found.plan.record.replicas) == 2 and found.plan.record.pins == plan.record.pins
    assert found.moves.checkpoint_bytes == 0 and len(found.moves.devices) == 6
    alone = replan(plan, without=["node0", "node1"], cache=cache)
    assert not alone.plan.record.replicas and alone.moves.checkpoint_bytes == 0
    assert any("no replicas" in n for n in alone.notes)
