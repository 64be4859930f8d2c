"""The framework adapters load when asked for, and say what is missing when it is."""

import importlib
import subprocess
import sys

import pytest

from planner import adapters
from planner.errors import ModelError


@pytest.mark.parametrize("name", sorted(adapters.ADAPTERS))
def test_every_name_is_there(name):
    assert callable(getattr(adapters, name))
    assert name in dir(adapters)


def test_importing_planner_imports_no_framework():
    program = ("import sys, planner.adapters, planner.models\n"
               "print(sorted({'flax', 'equinox', 'optax'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "module", "framework"),
                         [(name, *where) for name, where in sorted(adapters.ADAPTERS.items())])
def test_a_missing_framework_is_said_with_its_mend(monkeypatch, name, module, framework):
    def missing(path):
        if path == f"planner.adapters.{module}":
            raise ModuleNotFoundError(f"No module named {framework!r}", name=framework)
        return real(path)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModelError, match=f"pip install {framework}"):
        getattr(adapters, name)


def test_other_missing_modules_are_not_blamed_on_the_framework(monkeypatch):
    def missing(path):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        _ = adapters.from_nnx


def test_unknown_attributes_are_attribute_errors():
    with pytest.raises(AttributeError, match="from_torch"):
        _ = adapters.from_torch
