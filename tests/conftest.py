"""What every test runs on: eight virtual CPU devices, reproducible hypothesis, and public data that may be absent."""

from collections.abc import Callable
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_platforms", "cpu")  # the same tests on a laptop and beside a GPU
jax.config.update("jax_num_cpu_devices", 8)
# Programs of the tests take longer to compile than to run. What LLVM makes of an operator is left plain; partitioning,
# fusion and memory are those of any other run.
jax.config.update("jax_disable_most_optimizations", True)

# `deadline`: a first call compiles. `database`: a test's outcome depends on nothing that an earlier run left behind.
hypothesis.settings.register_profile("planner", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("planner")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared-data", type=Path, default=ROOT.parent / "shared", metavar="PATH",
                     help="folder of public data (iopddl/, measured/); its tests are skipped where it is absent")
    parser.addoption("--jax-cache", type=Path, default=None, metavar="PATH",
                     help="keep compiled programs in this folder, to repeat a test run sooner")


def pytest_configure(config: pytest.Config) -> None:
    cache = config.getoption("--jax-cache")
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session", autouse=True)
def started() -> None:
    """JAX's devices, before the command line that a test calls may ask for fewer: the first to ask decides."""
    assert len(jax.devices("cpu")) == 8, "JAX was started before tests/conftest.py could ask for eight devices"


@pytest.fixture(scope="session")
def mesh8() -> jax.sharding.Mesh:
    """The eight CPU devices in one axis, `"d"`."""
    return jax.sharding.Mesh(np.array(jax.devices("cpu")), ("d",))


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """`shared_data("iopddl/example.json")` is that file of the public data; the test is skipped where it is absent."""
    folder: Path = request.config.getoption("--shared-data")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"public data {name} is not in {folder}; give its folder with --shared-data PATH")
        return path

    return find
