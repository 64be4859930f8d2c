"""The places of a graph where a rule applies.

Terms are matched from their root up, with backtracking where operands may stand either way round; further terms of a
pattern are looked for among the readers of what is bound. Source: the subgraph matching of TASO (SOSP 2019, section
4.1), on a graph in which every value has one producer.

In: a `Graph`, a `Rule`. Out: `Match`es, in the order of their first operators.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planner.core.graph import Graph, Literal, Operand
from planner.rewrites.pattern import Call, Match, Number, Siblings, Term, Var, number_of, type_of
from planner.rewrites.table import Rule


def matches(graph: Graph, rule: Rule) -> list[Match]:
    """Every place where a rule applies; places may overlap."""
    if isinstance(rule.pattern, Siblings):
        found = _siblings(graph, rule.pattern)
    elif isinstance(rule.pattern, Call):
        found = _terms(graph, (rule.pattern,))
    elif isinstance(rule.pattern, tuple):
        found = _terms(graph, rule.pattern)
    else:
        found = iter(rule.pattern(graph))
    return [m for m in found if rule.where(m) and not _feeds_itself(m)]


@dataclass(frozen=True)
class _Bound:
    """What names stand for so far."""

    ops: Mapping[str, int] = field(default_factory=dict[str, int])
    operands: Mapping[str, Operand] = field(default_factory=dict[str, Operand])
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _terms(graph: Graph, terms: Sequence[Call]) -> Iterator[Match]:
    for n, op in enumerate(graph.ops):
        if op.primitive in terms[0].primitives:
            seen: set[Hashable] = set()
            for bound in _root(graph, terms[0], n, _Bound()):
                for whole in _further(graph, terms[1:], bound):
                    roots = tuple(graph.ops[whole.ops[t.name]].results[0] for t in terms)
                    key = tuple(sorted(whole.ops.values()))
                    if key not in seen and len(set(roots)) == len(roots):
                        seen.add(key)
                        yield Match(graph, whole.ops, whole.operands, whole.numbers, roots)


def _further(graph: Graph, terms: Sequence[Call], bound: _Bound) -> Iterator[_Bound]:
    """Bindings of the other terms, whose roots read something that is bound, or what is computed from it."""
    if not terms:
        yield bound
        return
    taken = set(bound.ops.values())
    near = dict.fromkeys(o for o in bound.operands.values() if isinstance(o, int))
    readers = sorted(_reading(graph, near, _depth(terms[0])) - taken)
    for n in readers:
        if graph.ops[n].primitive in terms[0].primitives:
            for found in _root(graph, terms[0], n, bound):
                yield from _further(graph, terms[1:], found)


def _depth(term: Term) -> int:
    return 1 + max(map(_depth, term.operands), default=0) if isinstance(term, Call) else 0


def _reading(graph: Graph, values: Mapping[int, Any] | set[int], depth: int) -> set[int]:
    """Operators within a number of steps after values."""
    found: set[int] = set()
    level = set(values)
    for _ in range(depth):
        ops = {n for v in level for n in graph.consumers.get(v, ())}
        found |= ops
        level = {v for n in ops for v in graph.ops[n].results}
    return found


def _root(graph: Graph, term: Call, n: int, bound: _Bound) -> Iterator[_Bound]:
    op = graph.ops[n]
    if op.primitive not in term.primitives or len(op.operands) != len(term.operands) or n in bound.ops.values():
        return
    here = replace(bound, ops={**bound.ops, term.name: n})
    yield from _all(graph, term.operands, op.operands, here)
    if term.commutes:
        yield from _all(graph, term.operands, (op.operands[1], op.operands[0], *op.operands[2:]), here)


def _all(graph: Graph, terms: Sequence[Term], operands: Sequence[Operand], bound: _Bound) -> Iterator[_Bound]:
    if not terms:
        yield bound
        return
    for found in _one(graph, terms[0], operands[0], bound):
        yield from _all(graph, terms[1:], operands[1:], found)


def _one(graph: Graph, term: Term, operand: Operand, bound: _Bound) -> Iterator[_Bound]:
    if isinstance(term, Var):
        known = bound.operands.get(term.name)
        if known is None:
            yield replace(bound, operands={**bound.operands, term.name: operand})
        elif known is operand or (isinstance(operand, int) and known == operand):
            yield bound
    elif isinstance(term, Number):
        number = number_of(graph, operand)
        if number is not None:
            yield replace(bound, numbers={**bound.numbers, term.name: number})
    elif isinstance(operand, int) and operand in graph.producers:
        n = graph.producers[operand]
        if graph.ops[n].results[0] == operand:
            yield from _root(graph, term, n, bound)


def _siblings(graph: Graph, pattern: Siblings) -> Iterator[Match]:
    groups: dict[Hashable, list[int]] = {}
    for n, op in enumerate(graph.ops):
        shared = op.operands[pattern.shared] if op.primitive == pattern.primitive else None
        if shared is None or isinstance(shared, Literal):
            continue
        key = pattern.alike(op, tuple(type_of(graph, o) for o in op.operands))
        if key is not None:
            groups.setdefault((shared, key), []).append(n)
    for ops in groups.values():
        if len(ops) > 1:
            yield _group(graph, ops, pattern.shared)


def _group(graph: Graph, ops: Sequence[int], shared: int) -> Match:
    operands: dict[str, Operand] = {"shared": graph.ops[ops[0]].operands[shared]}
    for k, n in enumerate(ops):
        operands |= {f"{k}.{p}": o for p, o in enumerate(graph.ops[n].operands) if p != shared}
    roots = tuple(graph.ops[n].results[0] for n in ops)
    return Match(graph, {str(k): n for k, n in enumerate(ops)}, operands, {}, roots)


def _feeds_itself(match: Match) -> bool:
    """Whether something that the replacement reads depends on something that it makes."""
    if len(match.roots) == 1:
        return False
    graph, roots = match.graph, set(match.roots)
    first = min(graph.producers[r] for r in roots)
    stack, seen = [o for o in match.operands.values() if isinstance(o, int)], set[int]()
    while stack:
        value = stack.pop()
        if value in roots:
            return True
        n = graph.producers.get(value, -1)
        if n >= first and n not in seen:
            seen.add(n)
            stack += graph.ops[n].inputs
    return False
