"""Problem files: what is written is read back; what is wrong is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.core.problem import Edge, Node, Problem
from planner.core.problem_io import read_problem, write_problem
from planner.errors import ProblemError

PROBLEM = Problem(
    "two",
    (Node((0, 3), (1, 10**18), (5, 6)), Node((2, 4), (7,), (0,))),
    (Edge(0, 1, (3, 4)),),
    11,
)


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
@pytest.mark.parametrize("limit", [11, None])
def test_round_trip(tmp_path: Path, name: str, limit: int | None) -> None:
    problem = Problem(PROBLEM.name, PROBLEM.nodes, PROBLEM.edges, limit)
    write_problem(problem, tmp_path / name)
    assert read_problem(tmp_path / name) == problem
    assert [f.name for f in tmp_path.iterdir()] == [name]  # no scratch file left


def test_equal_problems_make_equal_files(tmp_path: Path) -> None:
    write_problem(PROBLEM, tmp_path / "a.gz")
    write_problem(PROBLEM, tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def document() -> dict[str, Any]:
    return {
        "problem": {
            "name": "two",
            "nodes": {"intervals": [[0, 3], [2, 4]], "costs": [[1, 2], [7]], "usages": [[5, 6], [0]]},
            "edges": {"nodes": [[0, 1]], "costs": [[3, 4]]},
            "usage_limit": 11,
        }
    }


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(doc: Any) -> None:
        for step in path[:-1]:
            doc = doc[step]
        doc[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("problem"), "no field 'problem'"),
        (lambda d: d["problem"]["nodes"].pop("usages"), "no field 'usages'"),
        (put("problem", "nodes", value=[]), "'nodes' is list, not dict"),
        (put("problem", "name", value=3), "'name' is int, not str"),
        (put("problem", "usage_limit", value=-1), "usage_limit is -1"),
        (put("problem", "usage_limit", value=1.5), "usage_limit is 1.5"),
        (put("problem", "nodes", "costs", value=[[1, 2]]), "2 intervals, 1 costs, 2 usages"),
        (put("problem", "nodes", "costs", 0, value=[1]), "node 0 has 1 costs but 2 usages"),
        (put("problem", "nodes", "costs", 1, value=[]), "node 1 has no strategies"),
        (put("problem", "nodes", "costs", 1, value=7), "entry 1 of 'costs' is 7"),
        (put("problem", "nodes", "costs", 1, value=[float("nan")]), "node 1: costs contain nan"),
        (put("problem", "nodes", "usages", 1, value=[-4]), "node 1: usages contain -4"),
        (put("problem", "nodes", "usages", 1, value=[True]), "node 1: usages contain True"),
        (put("problem", "nodes", "intervals", 1, value=[2]), "node 1: interval is [2]"),
        (put("problem", "edges", "nodes", 0, value=[0, 2]), "edge 0 joins node 2"),
        (put("problem", "edges", "nodes", 0, value=[0, "1"]), "edge 0 joins node '1'"),
        (put("problem", "edges", "nodes", 0, value=[0]), "edge 0: nodes is [0]"),
        (put("problem", "edges", "nodes", 0, value=[1, 1]), "edge 0 joins node 1 to itself"),
        (put("problem", "edges", "costs", 0, value=[3]), "edge 0 has 1 costs"),
        (put("problem", "edges", "costs", value=[]), "1 pairs of nodes, 0 costs"),
    ],
)
def test_malformed_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    doc = document()
    change(doc)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(doc))
    with pytest.raises(ProblemError) as caught:
        read_problem(path)
    assert said in caught.value.what
    assert str(path) in caught.value.what


@pytest.mark.parametrize("keep", [0, 1, 30, -5])
@pytest.mark.parametrize("zipped", [False, True])
def test_truncated(tmp_path: Path, keep: int, zipped: bool) -> None:
    content = json.dumps(document()).encode()
    path = tmp_path / "short"
    path.write_bytes((gzip.compress(content) if zipped else content)[:keep])
    with pytest.raises(ProblemError, match=r"truncated|corrupt|not JSON"):
        read_problem(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="cannot read"):
        read_problem(tmp_path / "nowhere.json")
    with pytest.raises(ProblemError, match="cannot write"):
        write_problem(PROBLEM, tmp_path / "no" / "where.json")


def test_malformed_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="node 0"):
        write_problem(Problem("bad", (Node((0, 1), (), ()),), ()), tmp_path / "bad.json")
    assert not list(tmp_path.iterdir())
