"""Places where a rule applies, by class: what is decided for one layer is decided for all its repeats.

Places are of one class if their operators and what they read are of equal types and read parameters that differ in
numbers of their paths alone. A class is called by those parameters (`layers/*/attention/query`), or by its source line,
with a number where several would be called the same: by nothing that depends on the size of microbatches.

In: a forward `Graph`, a `Rule`. Out: `Site` classes, in order of their first places.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from planner.core.graph import Graph, Literal, Operand, Role
from planner.core.rewriting import Rewriting
from planner.rewrites.pattern import Match, type_of
from planner.rewrites.table import Rule
from planner.rewriting.matching import matches

NAMED = 3
"""Parameters named at most. [chosen: a name is a line]"""

_MOVES = frozenset({"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "expand_dims", "reshape",
                    "slice", "squeeze", "transpose"})
"""What is made of a parameter by these is still called by its name."""


@dataclass(frozen=True)
class Site:
    """The places of one class, none of which overlaps another."""

    rewriting: Rewriting
    matches: tuple[Match, ...]


def sites(graph: Graph, rule: Rule) -> list[Site]:
    """Where a rule applies, by class."""
    groups: dict[tuple[str, Hashable], list[Match]] = {}
    paths = {i.value: i.path for i in graph.inputs_of(Role.PARAM)}
    for match in matches(graph, rule):
        groups.setdefault((_name(match, paths), kind(match)), []).append(match)
    found: list[Site] = []
    called: dict[str, int] = {}
    for (name, _), members in groups.items():
        called[name] = called.get(name, 0) + 1
        at = name if called[name] == 1 else f"{name} #{called[name]}"
        found.append(Site(Rewriting(rule.name, at), tuple(_apart(members))))
    return found


def kind(match: Match) -> Hashable:
    """Equal for places at which a replacement is the same."""
    ops = tuple((name, match.graph.kinds[n]) for name, n in match.ops.items())
    operands = tuple((name, type_of(match.graph, o), _written(o)) for name, o in match.operands.items())
    return ops, operands, tuple((name, np.asarray(n).dtype.str, np.asarray(n).tobytes())
                                 for name, n in match.numbers.items()), len(match.roots)


def _written(operand: Operand) -> Hashable:
    return np.asarray(operand.value).tobytes() if isinstance(operand, Literal) else None


def _apart(members: Iterable[Match]) -> Iterable[Match]:
    taken: set[int] = set()
    for match in members:
        if taken.isdisjoint(match.ops.values()):
            taken.update(match.ops.values())
            yield match


def _name(match: Match, paths: Mapping[int, str]) -> str:
    """The parameters that are read at a place, by their `paths`, or where it was written."""
    graph = match.graph
    found: dict[str, None] = {}
    for operand in match.operands.values():
        path = paths.get(_moved_from(graph, operand)) if isinstance(operand, int) else None
        if path is not None:
            found[re.sub(r"(?<![^/])\d+(?![^/])", "*", path)] = None
    if found:
        names = list(found)
        return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    sources = [match.op(name).source for name in match.ops]
    return next((s for s in sources if s), "the model")


def _moved_from(graph: Graph, value: int) -> int:
    """The value that this one was moved, cast or cut from."""
    n = graph.producers.get(value)
    while n is not None and graph.ops[n].primitive in _MOVES and graph.ops[n].inputs:
        value = graph.ops[n].inputs[0]
        n = graph.producers.get(value)
    return value
