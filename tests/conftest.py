"""What every test runs on: eight virtual CPU devices, reproducible hypothesis, and public data that may be absent."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import jax
import numpy as np
import pytest

from planner import api, replanning
from planner.cache.store import Cache
from planner.cli import options
from planner.trace import ReverseRules
from tests.quickly import QUICKLY
from tests.slow import SLOW

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_platforms", "cpu")  # the same tests on a laptop and beside a GPU
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
os.environ["XLA_FLAGS"] = QUICKLY["XLA_FLAGS"]  # read when JAX starts its devices, and by processes that tests start

# `deadline`: a first call compiles. `database`: a test's outcome depends on nothing that an earlier run left behind.
hypothesis.settings.register_profile("planner", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("planner")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared-data", type=Path, default=ROOT.parent / "shared", metavar="PATH",
                     help="folder of public data (iopddl/, measured/); its tests are skipped where it is absent")
    parser.addoption("--jax-cache", type=Path, default=None, metavar="PATH",
                     help="keep compiled programs in this folder, to repeat a test run sooner (else: for a run)")


CACHE = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Each program is compiled once in a run, however many tests and workers ask for it."""
    given: Any = getattr(config, "workerinput", {}).get("jax_cache") or config.getoption("--jax-cache")
    if given is None:
        folder = TemporaryDirectory(prefix="jax-cache-")
        config.add_cleanup(folder.cleanup)
        given = folder.name
    config.stash[CACHE] = Path(given)
    jax.config.update("jax_compilation_cache_dir", str(given))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers of pytest-xdist share the folder."""
    node.workerinput["jax_cache"] = str(node.config.stash[CACHE])


FIRST = "tests/benchmarks/test_bubble.py"
"""Its first plan compiles the planner's loops where none are kept yet. A second worker finds them kept, as what it
begins with plans later: `tests/adapters`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `slow.py` names, before pytest leaves out what is marked; put one file first."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker("slow")
    files = {item.nodeid.split("::")[0] for item in items}
    gone = {name for name in SLOW if name.split("::")[0] in files} - {item.nodeid for item in items}
    if gone and not any("::" in arg for arg in config.args):
        raise pytest.UsageError(f"tests/slow.py names tests that are not there: {', '.join(sorted(gone))}")


def pytest_collection_finish() -> None:
    """Tracing makes many small objects, and all that is imported is not garbage: looking for some took a quarter of the
    time of planning. [measured: tests/footprint, 10.8 s of CPU with JAX's import, 7.8 s so; jax 0.10.2, 2 cores]"""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def started() -> None:
    """JAX's devices, before the command line that a test calls may ask for fewer: the first to ask decides."""
    assert len(jax.devices("cpu")) == 8, "JAX was started before tests/conftest.py could ask for eight devices"


@pytest.fixture(scope="session", autouse=True)
def nothing_kept() -> Iterator[None]:
    """No test reads what another left in the user's cache of solved tables; those of the cache give a folder."""
    given = options.cache
    with pytest.MonkeyPatch.context() as patch:
        for module in (api, replanning):
            patch.setattr(module, "cache_of", lambda asked, _=None: asked if isinstance(asked, Cache) else None)
        patch.setattr(options, "cache", lambda args, out: args.cache_dir is not None and given(args, out))
        yield


@pytest.fixture(scope="session", autouse=True)
def reverse_rules() -> Iterator[None]:
    """How an operator is differentiated follows from the operator: JAX is asked once in a run, not in every trace of
    the same few models. It was two thirds of the time of tracing."""
    rules = ReverseRules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["planner.trace.differentiate"], "ReverseRules", lambda: rules)
        yield


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
