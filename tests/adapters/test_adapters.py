"""The framework adapters load when they are called, and say what is missing when it is."""

import importlib
import subprocess
import sys

import pytest

from planner import adapters
from planner.errors import ModelError

CALLS = {
    "flax": (lambda: adapters.from_nnx(None, None, None), lambda: adapters.nnx_module(None, None),
             lambda: adapters.from_linen(None, {}, None, None), lambda: adapters.linen_variables(None)),
    "equinox": (lambda: adapters.from_equinox(None, None, None), lambda: adapters.equinox_module(None, None)),
}


def test_importing_planner_imports_no_framework():
    program = ("import sys, planner, planner.models\n"
               "from planner.adapters import from_nnx, from_linen, from_equinox\n"
               "print(sorted({'flax', 'equinox', 'optax'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def missing(module):
    def fail(path):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    return fail


@pytest.mark.parametrize(("framework", "call"), [(name, call) for name, calls in CALLS.items() for call in calls])
def test_a_missing_framework_is_said_with_its_mend(monkeypatch, framework, call):
    monkeypatch.setattr(importlib, "import_module", missing(framework))
    with pytest.raises(ModelError, match=f"pip install {framework}"):
        call()


def test_other_missing_modules_are_not_blamed_on_the_framework(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", missing("numpy"))
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        adapters.from_nnx(None, None, None)
