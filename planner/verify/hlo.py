"""A compiled program's HLO text as instructions: which computation holds them, and how often a run executes them.

Only what the verifier asks for is parsed: shapes, operands, metadata, the call graph and the trip counts of loops. In:
the text of `jax.stages.Compiled.as_text()`. Out: `Module`. Source: the text form that XLA's HLO parser reads
(https://openxla.org/xla/hlo_dumps).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType

ITEM_BYTES: Mapping[str, float] = MappingProxyType({
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1, "f8e4m3": 1,
    "f8e4m3b11fnuz": 1, "f8e4m3fnuz": 1, "f8e5m2fnuz": 1, "f8e3m4": 1, "f8e8m0fnu": 1, "f4e2m1fn": 0.5, "token": 0})
"""Bytes of one element, by XLA's names of types."""

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_LAYOUT = re.compile(r"\{[^{}]*\}")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLED = re.compile(r"\b(?:to_apply|calls|body|condition|branch_computations|true_computation|false_computation|"
                     r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
_CONSTANT = re.compile(r"= [su](?:32|64)\[\](?:\{[^}]*\})? constant\((\d+)\)")
_LESS = re.compile(r" compare\(.*direction=LT")
_INDEX = re.compile(r", index=(\d+)")


@dataclass(frozen=True, slots=True)
class Array:
    """The type of one array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return int(ITEM_BYTES[self.dtype] * prod(self.shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Instruction:
    """One line of the text.

    Attributes:
      name: without the percent sign.
      computation: that holds it.
      opcode: `"all-gather-start"`.
      parts: its type, by top-level element of a tuple; arrays of nested tuples are flattened into their element.
      operands: names of what it reads.
      attributes: what follows the operands.
    """

    name: str
    computation: str
    opcode: str
    parts: tuple[tuple[Array, ...], ...]
    operands: tuple[str, ...]
    attributes: str

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All arrays of its type."""
        return tuple(a for part in self.parts for a in part)

    @property
    def op_name(self) -> str:
        """The scopes it was traced in; "" where none are told."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: name -> instruction name -> its line.
      entry: the computation that runs.
    """

    computations: Mapping[str, Mapping[str, str]]
    entry: str

    def instructions(self, wanted: re.Pattern[str]) -> Iterator[Instruction]:
        """Instructions whose line matches, in the order of the text, of computations that run at all."""
        for computation, lines in self.computations.items():
            if self.runs.get(computation):
                for line in lines.values():
                    if wanted.search(line):
                        yield parse_line(line, computation)

    def instruction(self, computation: str, name: str) -> Instruction | None:
        """One instruction by name."""
        line = self.computations[computation].get(name)
        return None if line is None else parse_line(line, computation)

    @cached_property
    def runs(self) -> Mapping[str, int]:
        """How often each computation is executed in a run. Loops of unknown length count once, every branch of a
        conditional too."""
        called: dict[str, list[tuple[str, int]]] = {name: [] for name in self.computations}
        for name, lines in self.computations.items():
            for callee, trips in _calls(lines.values(), self.computations):
                called.get(callee, []).append((name, trips or 1))
        runs = {self.entry: 1}

        def count(name: str) -> int:
            if name not in runs:
                runs[name] = sum(times * count(caller) for caller, times in called[name])
            return runs[name]

        for name in self.computations:
            count(name)
        return MappingProxyType(runs)

    @cached_property
    def loops(self) -> Mapping[str, int | None]:
        """Body of each loop -> its trip count; None where the text does not tell."""
        found = {callee: trips for lines in self.computations.values()
                 for callee, trips in _calls(lines.values(), self.computations) if trips != 1}
        return MappingProxyType(found)

    @cached_property
    def in_loop(self) -> frozenset[str]:
        """Computations that run inside a loop."""
        calls = {name: {c for c, _ in _calls(lines.values(), self.computations)}
                 for name, lines in self.computations.items()}
        bodies = {body for lines in self.computations.values() for line in lines.values() for body in
                  _BODY.findall(line)}
        inside, waiting = set[str](), list(bodies)
        while waiting:
            name = waiting.pop()
            if name not in inside and name in calls:
                inside.add(name)
                waiting += calls[name]
        return frozenset(inside)

    @cached_property
    def callers(self) -> Mapping[str, tuple[str, str]]:
        """Computation -> (computation, instruction) that calls it; the first if there are several."""
        found: dict[str, tuple[str, str]] = {}
        for computation, lines in self.computations.items():
            for name, line in lines.items():
                for callee in _called(line):
                    found.setdefault(callee, (computation, name))
        return MappingProxyType(found)


def parse(text: str) -> Module:
    """The text as a module.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    entry = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head is not None:
                current = computations.setdefault(head[2], {})
                entry = head[2] if head[1] else entry
        elif (found := _LINE.match(line)) is not None:
            current[found[2]] = line
    if not entry:
        raise ValueError("this is no HLO module: it has no ENTRY computation")
    return Module(MappingProxyType(computations), entry)


def parse_line(line: str, computation: str = "") -> Instruction:
    """One instruction.

    Raises:
      ValueError: the line is no instruction.
    """
    head = _LINE.match(line)
    if head is None:
        raise ValueError(f"no HLO instruction: {line.strip()[:80]!r}")
    rest = _COMMENT.sub("", line[head.end():])
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"no HLO instruction: {line.strip()[:80]!r}")
    close = _closing(rest, opcode.end() - 1)
    inner = rest[opcode.end():close - 1]
    operands = tuple(o.strip().split(" ")[-1].lstrip("%") for o in _split(inner) if o.strip())
    return Instruction(head[2], computation, opcode[1], _parts(rest[:end]), operands, rest[close:])


def _parts(text: str) -> tuple[tuple[Array, ...], ...]:
    plain = _LAYOUT.sub("", text).strip()
    elements = _split(plain[1:-1]) if plain.startswith("(") else [plain]
    return tuple(tuple(Array(t, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n))
                       for t, dims in _ARRAY.findall(e)) for e in elements if e.strip())


def _closing(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for n in range(start, len(text)):
        depth += (text[n] == "(") - (text[n] == ")")
        if depth == 0:
            return n + 1
    return len(text)


def _split(text: str) -> list[str]:
    """Parts between top-level commas."""
    parts, depth, start = list[str](), 0, 0
    for n, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[start:n])
            start = n + 1
    return [*parts, text[start:]]


def _called(line: str) -> list[str]:
    names = [name.strip().lstrip("%") for found in _CALLED.findall(line) for name in found.strip("{}").split(",")]
    opcode = line.split("(", 1)[0] if "-done(" in line or "-update(" in line else ""
    return [] if opcode.endswith(("-done", "-update")) else names  # the start of an asynchronous call has run it


def _calls(lines: Iterable[str], computations: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, int | None]]:
    """(computation, times) that some lines call; None for a loop of unknown length."""
    for line in lines:
        body = _BODY.search(line) if "body=" in line else None
        for name in _called(line) if "=" in line else ():
            yield name, _trips(line, computations) if body is not None and name == body[1] else 1


def _trips(line: str, computations: Mapping[str, Mapping[str, str]]) -> int | None:
    """How often a loop runs: as the compiler noted, or by the one bound that its condition compares a counter with."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition, body = _CONDITION.search(line), _BODY.search(line)
    lines: Mapping[str, str] = computations.get(condition[1], {}) if condition else {}
    bounds = [int(b[1]) for text in lines.values() if (b := _CONSTANT.search(text))]
    less = [text for text in lines.values() if _LESS.search(text)]
    if len(bounds) != 1 or not less:
        return None
    return -(-bounds[0] // _step(lines, less[0], computations.get(body[1], {}) if body else {}))


def _step(condition: Mapping[str, str], compare: str, body: Mapping[str, str]) -> int:
    """What a run of a loop's body adds to the counter that the condition compares: more than 1 in unrolled loops."""
    place = _INDEX.search(condition.get(parse_line(compare).operands[0], ""))
    root = next((text for text in body.values() if text.lstrip().startswith("ROOT ")), None)
    made = parse_line(root).operands if root is not None else ()
    added = body.get(made[int(place[1])], "") if place is not None and int(place[1]) < len(made) else ""
    terms = parse_line(added).operands if " add(" in added else ()
    steps = [int(found[1]) for t in terms if (found := _CONSTANT.search(body.get(t, "")))]
    return max(steps[0], 1) if len(steps) == 1 else 1
