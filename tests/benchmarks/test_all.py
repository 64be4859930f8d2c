"""Every benchmark can be loaded: none is left behind by a change of what it measures."""

import importlib
from pathlib import Path

import pytest

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_loads_and_says_what_it_does(name):
    assert importlib.import_module(name).__doc__
