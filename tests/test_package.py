"""The wheel holds what a user needs, profiles included, and imports from there alone."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("jax_planner-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_profiles_types_and_licence(installed: Path) -> None:
    profiles = {path.name for path in (ROOT / "profiles").glob("*.json")}
    assert profiles, "the checkout has no profiles"
    assert {path.name for path in (installed / "planner" / "_profiles").glob("*.json")} == profiles
    assert (installed / "planner" / "py.typed").exists()
    assert list(installed.glob("jax_planner-*.dist-info/licenses/LICENSE"))


def test_wheel_brings_nothing_else_to_the_top(installed: Path) -> None:
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"planner", "jax_planner"}


def test_wheel_imports_outside_the_checkout_and_finds_its_profiles(installed: Path, tmp_path: Path) -> None:
    program = (f"import sys; sys.path.insert(0, {str(installed)!r})\n"
               "import planner, planner.profiles\n"
               f"assert planner.__file__.startswith({str(installed)!r}), planner.__file__\n"
               "assert planner.profiles.cluster(planner.profiles.profile_names()[0], nodes=1).device_count > 0\n")
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
