"""Keys tell apart whatever may make a difference, and are the same in every process."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from planner.cache.keys import digest, source_digest
from planner.core.hardware import Link
from planner.errors import PlannerError


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


@dataclass(frozen=True)
class Other:
    left: object
    right: object


DIFFERENT = [
    (1,), (1.0,), (True,), ("1",), (b"1",), (None,), ((),), (((),),), (1, 2), ((1, 2),), ("12",), ("1", "2"),
    (0.1 + 0.2,), (0.3,), ({1: 2},), ({2: 1},), ({1, 2},), (frozenset({1}),), (np.zeros(2),),
    (np.zeros(2, dtype=np.float32),), (np.zeros((2, 1)),), (Pair(1, 2),), (Pair(2, 1),), (Other(1, 2),),
    (Pair((1,), 2),), (float("inf"),)]


def test_different_values_have_different_keys() -> None:
    assert len({digest(*parts) for parts in DIFFERENT}) == len(DIFFERENT)


def test_order_counts_where_there_is_one_alone() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"x", "y", "z"}) == digest({"z", "x", "y"})
    assert digest([1, 2]) != digest([2, 1])


def test_every_field_of_a_link_counts() -> None:
    link = Link(1e9, 1e-6)
    assert digest(link) != digest(replace(link, latency_s=2e-6))
    assert digest(link) == digest(Link(1e9, 1e-6))


def test_keys_are_the_same_in_another_process() -> None:
    code = "from planner.cache.keys import *; print(digest({'b', 'a'}, {'k': (1, 2.5)}), source_digest())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[2]).stdout.split()
    assert found == [digest({"a", "b"}, {"k": (1, 2.5)}), source_digest()]


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(PlannerError, match="can't be hashed"):
        digest(lambda: None)
    with pytest.raises(PlannerError, match="can't be hashed"):
        digest(np.array([object()]))


def test_the_source_counts_but_for_rooms_that_no_table_comes_from(tmp_path: Path) -> None:
    for name in ("intraop/price.py", "report/tables.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a = 1\n")
    before = source_digest(tmp_path)
    (tmp_path / "report" / "tables.py").write_text("a = 2\n")
    source_digest.cache_clear()
    assert source_digest(tmp_path) == before
    (tmp_path / "intraop" / "price.py").write_text("a = 2\n")
    source_digest.cache_clear()
    assert source_digest(tmp_path) != before
