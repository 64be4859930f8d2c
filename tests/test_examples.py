"""Every example runs as a user runs it on a machine measured before, and shows a plan and a loss that falls."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import planner
from planner.measure import local_cluster
from tests.quickly import QUICKLY

ROOT = Path(__file__).resolve().parent.parent
OTHERS = ("demo", "six_kinds", "which_cluster")
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem not in OTHERS)
WITHOUT_LOSS = ("inference",)
SLOW = ("linen_module",)
"""Left to `make test-all`: the largest search; `tests/adapters` has Linen too."""


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A home of its own, so that nothing is left behind. It keeps a profile of eight CPU devices: the examples plan the
    same on every machine, and do not spend the minutes that measuring it takes."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.measure.machine.measure", lambda *_, **__: planner.cluster("cpu-8"))
        local_cluster(jax.devices(), profiles_in(home))
    return home


def profiles_in(home):
    return home / ".cache" / "planner"


def run(script, home, *arguments):
    environment = dict(os.environ) | {"HOME": str(home), "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg",
                                      "JAX_PLATFORMS": "cpu", **QUICKLY}
    done = subprocess.run([sys.executable, ROOT / "examples" / f"{script}.py", *arguments], cwd=home, env=environment,
                          capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(list(profiles_in(home).glob("*.json"))) == 1, "the kept profile was not used, or none was kept"
    return done.stdout


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in EXAMPLES])
def test_example_shows_its_plan_and_learns(name, home):
    output = run(name, home)
    assert "beside standard recipes" in output, "no plan was printed"
    losses = [float(text) for text in re.findall(r"^step \d+: loss ([\d.]+)", output, re.MULTILINE)]
    if name in WITHOUT_LOSS:
        differences = [float(text) for text in re.findall(r"one device (\S+)$", output, re.MULTILINE)]
        assert len(differences) == 3 and max(differences) < 1e-4
    else:
        assert len(losses) == 5 and losses[-1] < losses[0]


def test_example_says_which_cluster_to_rent(home):
    output = run("which_cluster", home)
    assert re.search(r"^cheapest within a day: 1 × \S+, [\d.]+ hours, \d+ USD$", output, re.MULTILINE)
    assert "none is both faster and cheaper than: " in output


@pytest.mark.slow
def test_example_shows_where_each_kind_of_parallelism_wins():
    done = subprocess.run([sys.executable, ROOT / "examples" / "six_kinds.py"], capture_output=True, text=True,
                          check=False, timeout=600,
                          env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    times = dict(re.findall(r"^(\w+) .*ms +([\d.]+)  ", done.stdout, re.MULTILINE))
    assert list(times) == ["data", "model", "spatial", "reduction", "pipeline", "experts", "sequence"]
    assert min(map(float, times.values())) > 1.4


def test_demo_trains_like_one_device_and_draws(home, tmp_path):
    output = run("demo", home, "--steps", "6", "--out", str(tmp_path))
    start, end, worst = (float(text) for text in re.search(
        r"loss ([\d.]+) → ([\d.]+);.*?is\s+(\S+)", output, re.DOTALL).groups())
    assert end < start and worst < 1e-3  # float32 sums in another order, amplified by six steps of Adam
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"all", "devices", "timetable", "memory", "graph", "shardings", "loss"}
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert (tmp_path / "gpt.plan.json").exists()


@pytest.mark.slow
def test_the_first_run_on_a_machine_measures_it(tmp_path):
    assert "beside standard recipes" in run("train_step", tmp_path)
    (kept,) = profiles_in(tmp_path).glob("*.json")
    assert planner.cluster(str(kept)).devices_per_node == 8
