"""The collectives of a compiled program, read from its HLO text: kind, bytes, devices of a group, whether in a loop."""

import re
from dataclasses import dataclass
from math import prod

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COLLECTIVE = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]+)\}|mesh\[(.*?)\] \{(.*?)\})")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_USED = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition|\w+_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")


@dataclass(frozen=True)
class Found:
    """One collective; `bytes` counts the whole tensor along the group, as `planner.costs.collectives` does."""

    kind: str
    bytes: int
    arrays: int
    group: int
    in_loop: bool
    source: str


def collectives(text: str) -> list[Found]:
    """All collectives of more than one device, in the order of the text."""
    computations = _computations(text)
    loops = _in_loops(computations)
    found = []
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            group = _group(line)
            if group > 1:
                sizes = [BYTES[t] * prod(int(n) for n in dims.split(",") if n) for t, dims in _ARRAY.findall(match[1])]
                kind = match[2]
                total = sum(sizes) * (group if kind in ("reduce-scatter", "all-to-all") else 1)
                where = re.search(r'op_name="([^"]*)"', line)
                found.append(Found(kind, total, len(sizes), group, name in loops, where[1] if where else ""))
    return found


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is not None and not line.startswith(" "):
            current = found.setdefault(head[1], [])
        else:
            current.append(line)
    return found


def _in_loops(computations: dict[str, list[str]]) -> set[str]:
    """Computations that run inside a `while`."""
    calls = {name: {c.strip().lstrip("%") for line in lines for names in _CALLED.findall(line)
                    for c in names.split(",")} for name, lines in computations.items()}
    inside: set[str] = set()
    waiting = [body for lines in computations.values() for line in lines for body in _BODY.findall(line)]
    while waiting:
        name = waiting.pop()
        if name not in inside and name in computations:
            inside.add(name)
            waiting += calls[name]
    return inside


def _group(line: str) -> int:
    match = _GROUPS.search(line)
    if match is None:
        return 2 if "source_target_pairs" in line else 1
    if match[2]:
        return int(match[2])
    if match[3]:
        return len(match[3].split(","))
    sizes = {axis: int(size) for axis, size in _AXIS.findall(match[4])}
    return prod(int(part) if part else sizes[axis] for axis, part in _USED.findall(match[5]))
