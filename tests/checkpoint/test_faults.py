"""What may not be loaded is not, and is named; what cannot be saved leaves nothing that could be loaded."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from planner.checkpoint import Checkpoints
from planner.core import plan_io
from planner.errors import CheckpointError, SaveError
from tests.checkpoint.runs import open_run, plan_of, train
from tests.runtime import models
from tests.runtime.plans import Design

ROOT = Path(__file__).resolve().parents[2]
DESIGN = Design()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with checkpoints after 2 and 4 steps; copy it."""
    folder = tmp_path_factory.mktemp("saved")
    train(folder, models.mlp(), DESIGN, until=4)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def largest(place: Path) -> Path:
    return max((p for p in place.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(place: Path) -> None:
    file = largest(place / "state" / "d")
    with file.open("rb+") as content:
        content.truncate(file.stat().st_size // 2)


def flip(place: Path) -> None:
    file = largest(place / "state" / "d")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose(place: Path) -> None:
    largest(place / "state" / "d").unlink()


def lose_seal(place: Path) -> None:
    (place / "state" / "seal.json").unlink()


def cut_seal(place: Path) -> None:
    (place / "state" / "seal.json").write_text('{"format": 1, "fi')


def change_about(place: Path) -> None:
    file = place / "about" / "metadata"
    file.write_text(file.read_text().replace('"mlp"', '"mlq"', 1))


def lose_about(place: Path) -> None:
    shutil.rmtree(place / "about")


DAMAGE = {"truncated": (cut, "bytes instead of"), "one bit flipped": (flip, "another checksum"),
          "a file lost": (lose, "is missing"), "no seal": (lose_seal, "seal.json is missing"),
          "half a seal": (cut_seal, "seal.json is damaged"), "edited": (change_about, "says of itself is damaged"),
          "no description": (lose_about, "cannot be read (No such file or directory)")}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_named(folder, damage):
    harm, why = DAMAGE[damage]
    harm(folder / "4")
    checkpoints, run = open_run(folder, models.mlp(), DESIGN)
    assert run.done == 2
    (said,) = run.skipped
    assert said.startswith(f"{folder / '4'} is damaged: ")
    assert why in said
    with checkpoints:
        checkpoints.save(4, run.state)
    assert checkpoints.counts == (2, 4)
    assert (folder / "4.damaged-1").is_dir()
    assert open_run(folder, models.mlp(), DESIGN)[1].done == 4


def test_an_unfinished_checkpoint_is_passed_over_named_and_removed(folder):
    half = (folder / "4").rename(folder / "4.orbax-checkpoint-tmp")
    checkpoints, run = open_run(folder, models.mlp(), DESIGN)
    assert run.done == 2
    assert run.skipped == (f"{half} is not finished: the run that wrote it ended before",)
    with checkpoints:
        checkpoints.save(4, run.state)
    assert checkpoints.counts == (2, 4)
    assert not half.exists()


def test_where_none_is_whole_nothing_is_loaded_nor_begun_anew(folder):
    for n in ("2", "4"):
        cut(folder / n)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*run is whole: .*4 is damaged.*2 is damaged"):
        open_run(folder, models.mlp(), DESIGN)


@pytest.mark.parametrize("name", ["empty", "not/there"])
def test_no_checkpoint(tmp_path, name):
    (tmp_path / "empty").mkdir()
    model = models.mlp()
    with pytest.raises(CheckpointError, match=f"there is no checkpoint in .*{name}"):
        Checkpoints(tmp_path / name, plan_of(model, DESIGN)).resume(model, jax.devices())


def wider():
    model = models.mlp()
    params = model.params | {"layer2": {"w": jnp.zeros((8, 16)), "b": jnp.zeros(16)},
                             "layer3": {"w": jnp.zeros((16, 8)), "b": jnp.zeros(8)}}
    return dataclasses.replace(model, params=params, name="wider")


OTHERS = {
    "another shape": (wider, r"'params/layer2/b' is float32\[16\] in the model, float32\[8\] in the checkpoint"),
    "a layer more": (lambda: models.mlp(layers=5),
                     r"'params/layer4/b' is float32\[8\] in the model, not in the checkpoint"),
    "a layer less": (lambda: models.mlp(layers=3),
                     r"'opt_state/0/mu/layer3/b' is float32\[8\] in the checkpoint, not in the model"),
    "another optimizer": (lambda: models.mlp(optax.sgd(0.1, momentum=0.9)),
                          r"'opt_state/0/trace/layer0/b' is float32\[8\] in the model, not in the checkpoint"),
    "another model": (models.tied, r"is a checkpoint of another model \('mlp', not 'tied'\): 'params/attention/k' is"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_model_is_refused_with_the_first_difference(folder, name):
    build, text = OTHERS[name]
    with pytest.raises(CheckpointError, match=text):
        open_run(folder, build(), DESIGN)


def test_the_same_arrays_under_other_constants_are_loaded_with_a_warning(folder):
    _, run = open_run(folder, models.mlp(optax.adamw(5e-3)), DESIGN)
    (said,) = run.warnings
    assert run.done == 4
    assert "the same arrays, but other operators or constants" in said
    assert open_run(folder, models.mlp(), DESIGN)[1].warnings == ()


def test_a_run_does_not_save_beside_newer_checkpoints(folder):
    model = models.mlp()
    plan = plan_of(model, DESIGN)
    _, state = plan.compile(model, jax.devices())
    with Checkpoints(folder, plan) as checkpoints, \
            pytest.raises(CheckpointError, match="has a checkpoint of step 4 already, step 1 is to be saved"):
        checkpoints.save(1, state)
    assert checkpoints.counts == (2, 4)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    model = models.mlp()
    plan = plan_of(model, DESIGN)
    _, state = plan.compile(model, jax.devices())
    with Checkpoints(tmp_path / "file" / "run", plan) as checkpoints, \
            pytest.raises(SaveError, match=r"cannot save step 1 in .*run: .*Not a directory"):
        checkpoints.save(1, state)


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}])
def test_keeping_nothing_is_refused(tmp_path, options):
    with pytest.raises(CheckpointError, match="leaves no checkpoint"):
        Checkpoints(tmp_path, plan_of(models.mlp(), DESIGN), **options)


def test_a_checkpoint_tells_its_plan_and_versions(folder):
    said = json.loads((folder / "4" / "about" / "metadata").read_text())["about"]
    record = plan_of(models.mlp(), DESIGN).record
    assert plan_io.from_json(said["plan"]) == record
    assert said["fingerprint"] == record.fingerprint
    assert said["versions"]["jax"] == jax.__version__


FULL_DISK = """
import resource, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
from planner.errors import CheckpointError, SaveError
from tests.checkpoint.runs import open_run
from tests.runtime import models
from tests.runtime.plans import Design
folder = Path(sys.argv[1])
checkpoints, run = open_run(folder, models.mlp(), Design(mesh_shape=(1,)))
checkpoints.save(2, run.state)
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))  # a write beyond it fails
try:
    checkpoints.save(4, run.state)
    checkpoints.wait()
except CheckpointError as error:
    print(error)
print(checkpoints.counts)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.save(6, run.state)
checkpoints.close()
print(checkpoints.counts)
"""


def test_a_full_disk_is_told_leaves_nothing_to_load_and_the_run_may_go_on(tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert f"cannot save in {folder}: " in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["(2,)", "(2, 6)"], done.stderr
    _, run = open_run(folder, models.mlp(), Design(mesh_shape=(1,)))
    assert (run.done, run.skipped) == (6, ())
