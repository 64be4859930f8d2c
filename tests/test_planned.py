import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from planner.core.hardware import Cluster
from planner.errors import MeshError, PlanFileError
from planner.planned import Plan, load
from tests.report.records import eight_devices, two_devices


def test_saved_and_loaded(tmp_path):
    p = Plan(eight_devices())
    p.save(tmp_path / "p.json")
    again = load(tmp_path / "p.json")
    assert again == Plan(replace(eight_devices(), phases_s=()))
    assert again.to_json() == p.to_json()
    assert again.phases_s == {} and p.phases_s["trace"] == 0.8
    with pytest.raises(PlanFileError):
        load(tmp_path / "q.json")


def test_passes_through_to_the_record():
    p = Plan(eight_devices())
    assert (p.microbatches, len(p.stages), p.schedule, p.step_time_s) == (8, 2, "1f1b", p.record.step_time_s)
    assert p.peak_bytes == max(m.total_bytes for m in p.memory)
    assert p.gap == pytest.approx(0.04)
    assert p.cluster is p.record.cluster
    assert p.warnings == p.record.warnings and p.baselines == p.record.baselines
    assert 0 < p.mfu < 1


def test_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Plan(two_devices()).record = eight_devices()


def test_printed():
    p = Plan(two_devices())
    assert "beside standard recipes" in str(p)
    assert repr(p) == "<Plan of gpt 2x256 on 2 × V100-SXM2-16GB: 1 stage, 1 microbatch, 2.13 ms a step>"
    assert "Where the time goes" in p.explain()


def test_plot(tmp_path):
    Plan(two_devices()).plot(tmp_path / "m.png", kind="memory")
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("mesh", [[], two_devices().cluster], ids=["empty", "profile"])
def test_a_mesh_that_cannot_run(mesh):
    with pytest.raises(MeshError, match=r"jax\.sharding\.Mesh"):
        Plan(two_devices()).compile(None, mesh)
    assert isinstance(two_devices().cluster, Cluster)


def test_reading_and_printing_a_plan_does_not_import_matplotlib(tmp_path):
    Plan(two_devices()).save(tmp_path / "p.json")
    code = ("import sys; from planner.core import plan_io; from planner.report import tables, explain; "
            f"r = plan_io.load({str(tmp_path / 'p.json')!r}); tables.render(r); explain.explain(r); "
            "print(sorted({'matplotlib', 'ortools'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
