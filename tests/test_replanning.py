"""Planning again: from the cache alone, for fewer nodes and other batches; what moves is counted by the element."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import planner
from planner import planned, replanning, trace
from planner.cache import written
from planner.cache.programs import kept_programs
from planner.cache.store import SUFFIX, Cache
from planner.cli import main
from planner.core.graph import Graph
from planner.core.moves import OPTIMIZER, PARAMETER, Moves
from planner.core.plan import PlanRecord
from planner.errors import BatchError, ModelError
from planner.models import build
from planner.moving import Held, held, moves
from planner.planned import Plan
from planner.replanning import Replanned, replan

THREE = replace(planner.cluster("p3.16xlarge", nodes=3), devices_per_node=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return planner.plan(build("gpt-tiny", batch_size=12), THREE, cache=Cache(folder), microbatches=4, schedule="1f1b")


@pytest.fixture(scope="module")
def again(plan: Plan, folder: Path) -> Replanned:
    """Nothing is traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "trace_program", lambda *_: pytest.fail("the model was traced"))
        return replan(plan, without=["node1"], cache=Cache(folder))


def test_a_plan_for_the_nodes_that_are_left(plan: Plan, again: Replanned) -> None:
    new = again.plan.record
    assert (new.device_count, new.cluster.nodes, new.batch_size) == (4, 2, 12)
    assert (new.fingerprint, new.pins, new.microbatches) == (plan.record.fingerprint, plan.record.pins, 4)
    cold = planner.plan(build("gpt-tiny", batch_size=12), replace(THREE, nodes=2), cache=False, microbatches=4,
                        schedule="1f1b")
    assert new.step_time_s <= cold.step_time_s * 1.01


def test_only_meshes_that_were_not_there_are_solved(plan: Plan, folder: Path, again: Replanned, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a node is lost, losing another one of the same cluster solves nothing."""
    for file in folder.iterdir():
        if not file.name.startswith(replanning.KIND):
            shutil.copy(file, tmp_path)
    monkeypatch.setattr(written, "mesh_table", lambda *_: pytest.fail("a table was solved that had been kept"))
    assert replan(plan, without=["node0"], cache=Cache(tmp_path)).plan.to_json() == again.plan.to_json()


def test_the_same_question_is_searched_once(plan: Plan, folder: Path, again: Replanned,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever node it is; what moves is another thing."""
    monkeypatch.setattr(replanning, "_searched", lambda *_: pytest.fail("it was searched for again"))
    found = replan(plan, without=["node2"], cache=Cache(folder))
    assert found.plan.to_json() == again.plan.to_json()
    assert [d.name for d in found.moves.devices] != [d.name for d in again.moves.devices]


def test_a_kept_plan_that_is_damaged_is_searched_for_again(plan: Plan, folder: Path, again: Replanned, tmp_path: Path
                                                           ) -> None:
    said: list[str] = []
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    (name,) = (p.name.removesuffix(SUFFIX) for p in tmp_path.iterdir() if p.name.startswith(replanning.KIND))
    cache = Cache(tmp_path, say=said.append)
    cache.put(*name.split("-"), b"{}")
    assert replan(plan, without=["node2"], cache=cache).plan.to_json() == again.plan.to_json()
    assert len(said) == 1


def test_nothing_of_jax_is_imported_for_a_plan_that_is_kept(plan: Plan, folder: Path, again: Replanned, tmp_path: Path
                                                            ) -> None:
    """It takes longer to import than all the rest."""
    plan.save(tmp_path / "old.plan.json")
    code = ("import sys; from planner.cli import main; main(['replan', sys.argv[1], '--without', 'node0', '--json', "
            "'--cache-dir', sys.argv[2]]); print(sorted({'jax', 'numba'} & set(sys.modules)), file=sys.stderr)")
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path / "old.plan.json"), str(folder)],
                           capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert found.stderr == "[]\n"


def test_what_was_not_asked_ahead_is_searched_for_without_jax(plan: Plan, folder: Path, again: Replanned,
                                                              tmp_path: Path) -> None:
    plan.save(tmp_path / "old.plan.json")
    for kept in folder.glob("plan-*"):
        kept.unlink()
    code = ("import sys; from planner.cli.main import main; main(['replan', sys.argv[1], '--without', 'node1', "
            "'--json', '--cache-dir', sys.argv[2], '-o', sys.argv[3]]); print('jax' in sys.modules, file=sys.stderr)")
    new = tmp_path / "new.plan.json"
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path / "old.plan.json"), str(folder), str(new)],
                           capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert found.stderr.splitlines()[-1] == "False"
    assert planned.load(new).to_json() == again.plan.to_json()


def test_another_batch_keeps_the_size_of_its_microbatches(plan: Plan, folder: Path) -> None:
    found = replan(plan, batch_size=24, cache=Cache(folder)).plan
    assert (found.record.batch_size, found.microbatches) == (24, 8)
    traced = trace.trace_program(build("gpt-tiny", batch_size=24), 8)
    assert found.record.fingerprint == traced.fingerprint
    with pytest.raises(BatchError, match="microbatches of 3 samples are known"):
        replan(plan, batch_size=13, cache=Cache(folder))


def test_without_a_cache_the_zoo_is_asked_and_others_need_their_model(plan: Plan, again: Replanned, tmp_path: Path
                                                                      ) -> None:
    found = replan(plan, without=["node1"], cache=Cache(tmp_path))
    assert found.plan.step_time_s == pytest.approx(again.plan.step_time_s, rel=0.01)
    assert "traced again" in found.notes[0]
    assert kept_programs(Cache(tmp_path), plan.record.fingerprint)
    mine = Plan(replace(plan.record, model_name="mine"))
    with pytest.raises(ModelError, match="no model of the zoo"):
        replan(mine, without=["node1"], cache=False)
    with pytest.raises(ModelError, match="another model"):
        replan(mine, without=["node1"], cache=False, model=build("mlp-tiny", batch_size=12))


def masks(record: PlanRecord, h: Held) -> Iterator[tuple[int, np.ndarray]]:
    """Per device of a stage, which elements it holds: by slicing an array, dimension by dimension and axis by axis."""
    stage = record.stages[h.stage]
    for device, at in zip(stage.devices, np.ndindex(stage.mesh_shape), strict=True):
        part = [np.arange(size) for size in h.shape]
        for d, axes in enumerate(h.spec):
            for axis in axes:
                part[d] = np.split(part[d], stage.mesh_shape[axis])[at[axis]]
        mask = np.zeros(h.shape, dtype=bool)
        mask[np.ix_(*part)] = True
        yield device, mask


def counted(old: PlanRecord, new: PlanRecord, update: Graph | None, was: tuple[int | None, ...]
            ) -> dict[int, tuple[int, int, int]]:
    """Per device of the new plan, bytes that lie there, that others have, and that nobody has any more."""
    before = {(h.what, h.path, h.row): h for h in held(old, update)}
    found = {d: (0, 0, 0) for stage in new.stages for d in stage.devices}
    for h in held(new, update):
        there = dict(masks(old, before[h.what, h.path, h.row]))
        left = np.zeros(h.shape, dtype=bool)
        for device in {w for w in was if w is not None} & there.keys():
            left |= there[device]
        for device, needs in masks(new, h):
            mine = there.get(was[device], np.zeros(h.shape, dtype=bool)) if was[device] is not None else ~needs & needs
            counts = ((needs & mine).sum(), (needs & ~mine & left).sum(), (needs & ~mine & ~left).sum())
            found[device] = tuple(a + int(n) * h.item_bytes  # type: ignore[assignment]
                                  for a, n in zip(found[device], counts, strict=True))
    return found


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_bytes_that_move_are_those_counted_element_by_element(plan: Plan, again: Replanned, folder: Path, lost: int
                                                              ) -> None:
    update = kept_programs(Cache(folder), plan.record.fingerprint)[4].update
    was = tuple(d for d in range(6) if d // 2 != lost)
    found = moves(plan.record, again.plan.record, update, was)
    assert {d.device: (d.kept_bytes, d.moved_bytes, d.checkpoint_bytes) for d in found.devices} == counted(
        plan.record, again.plan.record, update, was)
    check_pieces(found, plan.record, update, was)


def check_pieces(found: Moves, old: PlanRecord, update: Graph | None, was: tuple[int | None, ...]) -> None:
    homes = {(h.what, h.path, h.row): set(old.stages[h.stage].devices) for h in held(old, update)}
    for arrivals in found.devices:
        assert arrivals.was == was[arrivals.device]
        sums = {PARAMETER: 0, OPTIMIZER: 0}
        for piece in arrivals.pieces:
            sums[piece.what] += piece.bytes
            if piece.source is not None:
                assert piece.source in homes[piece.what, piece.path, piece.row] & set(was)
                assert piece.source != arrivals.was
        assert sum(sums.values()) + arrivals.kept_bytes == arrivals.params_bytes + arrivals.opt_state_bytes
    assert (found.seconds > 0) == (found.moved_bytes > 0)


def test_the_same_plan_on_the_same_devices_moves_nothing(plan: Plan) -> None:
    found = moves(plan.record, plan.record, None, tuple(range(6)))
    assert (found.moved_bytes, found.checkpoint_bytes, found.seconds) == (0, 0, 0.0)


def test_on_other_devices_everything_comes_from_a_checkpoint(plan: Plan) -> None:
    found = moves(plan.record, plan.record, None, (None,) * 6)
    assert found.kept_bytes == found.moved_bytes == 0
    assert found.checkpoint_bytes == sum(d.params_bytes for d in found.devices) > 0


def test_the_command_says_what_moves(plan: Plan, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                     ) -> None:
    old, new = tmp_path / "old.plan.json", tmp_path / "new.plan.json"
    plan.save(old)
    flags = [str(old), "--without", "node1", "--cache-dir", str(folder)]
    assert main(["replan", *flags, "-o", str(new)]) == 0
    printed = capsys.readouterr().out
    assert "what moves" in printed
    assert "node2.gpu1" in printed
    assert planned.load(new).record.device_count == 4
    assert main(["replan", *flags, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [d["name"] for d in data["moves"]["devices"]] == ["node0.gpu0", "node0.gpu1", "node2.gpu0", "node2.gpu1"]
    assert main(["replan", str(old), "--without", "node7", "--cache-dir", str(folder)]) == 2
    assert main(["cache", "info", "--json", "--cache-dir", str(folder)]) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert kinds["table"]["files"] > 0
    assert kinds["program"]["files"] == 1
