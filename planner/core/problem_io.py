"""Intra-operator problems as files, in the format of the IOPDDL contest (github.com/google/iopddl): JSON or gzip.

    {"problem": {"name": "...",
                 "nodes": {"intervals": [[start, end], ...], "costs": [[...], ...], "usages": [[...], ...]},
                 "edges": {"nodes": [[a, b], ...], "costs": [[...], ...]},
                 "usage_limit": 50}}

One entry per node or edge; `usage_limit` may be left out. Fields that are not named here are ignored.
"""

import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any, cast

from planner.core.files import write_atomically
from planner.core.problem import Edge, Node, Problem
from planner.core.problem_check import check_problem
from planner.errors import ProblemError


def read_problem(path: str | os.PathLike[str]) -> Problem:
    """Read a problem from a JSON file, gzipped or not (told by its first bytes, not by its name).

    Raises:
      ProblemError: the file can't be read, is truncated, is not JSON, or a field, node or edge is missing or wrong.
    """
    place = Path(path)
    try:
        content = place.read_bytes()
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise ProblemError(f"{place} is truncated or corrupt gzip ({fault})", "fetch or write it again") from fault
    except OSError as fault:
        raise ProblemError(f"cannot read {place}: {fault.strerror or fault}") from fault
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ProblemError(f"{place} is not JSON, or is truncated: {fault}", "fetch or write it again") from fault
    try:
        problem = _from_document(document)
        check_problem(problem)
    except ProblemError as fault:
        raise ProblemError(f"{place}: {fault.what}", fault.mend) from fault
    return problem


def write_problem(problem: Problem, path: str | os.PathLike[str]) -> None:
    """Write a problem as JSON, gzipped if the name ends in `.gz`. The file appears whole or not at all.

    Raises:
      ProblemError: the problem is malformed, or the file can't be written.
    """
    check_problem(problem)
    text = json.dumps(_to_document(problem), separators=(",", ":")).encode()
    place = Path(path)
    if place.suffix == ".gz":
        text = gzip.compress(text, mtime=0)  # no time in the header: equal problems make equal files
    try:
        write_atomically(place, text)
    except OSError as fault:
        raise ProblemError(f"cannot write {place}: {fault.strerror or fault}") from fault


def _to_document(problem: Problem) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": problem.name,
        "nodes": {
            "intervals": [n.interval for n in problem.nodes],
            "costs": [n.costs for n in problem.nodes],
            "usages": [n.usages for n in problem.nodes],
        },
        "edges": {"nodes": [(e.a, e.b) for e in problem.edges], "costs": [e.costs for e in problem.edges]},
    }
    if problem.usage_limit is not None:
        body["usage_limit"] = problem.usage_limit
    return {"problem": body}


def _from_document(document: Any) -> Problem:
    body = _field(document, "problem", dict, "the file")
    nodes = _field(body, "nodes", dict, "problem")
    edges = _field(body, "edges", dict, "problem")
    intervals, costs, usages = (_lists(nodes, name, "nodes") for name in ("intervals", "costs", "usages"))
    ends, edge_costs = (_lists(edges, name, "edges") for name in ("nodes", "costs"))
    if not len(intervals) == len(costs) == len(usages):
        counts = f"{len(intervals)} intervals, {len(costs)} costs, {len(usages)} usages"
        raise ProblemError(f"nodes: {counts}", "give one each a node")
    if len(ends) != len(edge_costs):
        raise ProblemError(f"edges: {len(ends)} pairs of nodes, {len(edge_costs)} costs", "give one each an edge")
    wrong = next((n for n, pair in enumerate(ends) if len(pair) != 2), None)
    if wrong is not None:
        raise ProblemError(f"edge {wrong}: nodes is {ends[wrong]!r}", "give two nodes")
    return Problem(
        name=_field(body, "name", str, "problem") if "name" in body else "",
        nodes=tuple(Node(tuple(i), tuple(c), tuple(u)) for i, c, u in zip(intervals, costs, usages, strict=True)),
        edges=tuple(Edge(pair[0], pair[1], tuple(c)) for pair, c in zip(ends, edge_costs, strict=True)),
        usage_limit=body.get("usage_limit"),
    )


def _field(record: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(record, dict):
        raise ProblemError(f"{where} is {type(record).__name__}, not an object")
    fields = cast(dict[str, Any], record)
    if name not in fields:
        raise ProblemError(f"{where} has no field {name!r}")
    if not isinstance(fields[name], kind):
        raise ProblemError(f"{where}: field {name!r} is {type(fields[name]).__name__}, not {kind.__name__}")
    return fields[name]


def _lists(record: Any, name: str, where: str) -> list[list[Any]]:
    rows: list[Any] = _field(record, name, list, where)
    wrong = next((n for n, row in enumerate(rows) if not isinstance(row, list)), None)
    if wrong is not None:
        raise ProblemError(f"{where}: entry {wrong} of {name!r} is {rows[wrong]!r}, not a list")
    return rows
