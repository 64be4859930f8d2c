"""A graph with some places replaced.

The replacement is traced once per kind of place, for the types that are there, and copied into every one. What nothing
reads any more is left out, and operators are put in an order in which each comes after what it reads.

In: a forward `Graph`, places, the rule. Out: a `Graph` that computes the same.
"""

import heapq
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planner.core.graph import Graph, Op, Operand, Output, Role, Value
from planner.rewrites.pattern import Call, Match, Term, Var, type_of
from planner.rewrites.table import Rule
from planner.rewriting.sites import kind
from planner.trace.dtypes import struct_of
from planner.trace.jaxpr import trace_graph, without_dead_ops


def replaced(graph: Graph, rule: Rule, places: Sequence[Match]) -> Graph:
    """The graph with the rule applied at some places, none of which overlaps another.

    Raises:
      ValueError: the replacement makes other types than what it replaces: the rule is wrong.
    """
    edit = _Edit(graph, rule)
    for match in places:
        edit.put(match)
    return edit.graph_after()


def variables(pattern: Call | tuple[Call, ...]) -> tuple[str, ...]:
    """The names of a pattern's variables, in the order in which they first appear."""
    found: dict[str, None] = {}

    def look(term: Term) -> None:
        if isinstance(term, Var):
            found[term.name] = None
        elif isinstance(term, Call):
            for operand in term.operands:
                look(operand)

    for term in pattern if isinstance(pattern, tuple) else (pattern,):
        look(term)
    return tuple(found)


@dataclass
class _Edit:
    """A graph under way: what is new, and which operators it replaces."""

    graph: Graph
    rule: Rule
    values: list[Value] = field(init=False)
    new: list[tuple[int, Op]] = field(default_factory=list[tuple[int, Op]])  # place in the order of old operators
    constants: list[tuple[int, Any]] = field(init=False)
    gone: set[int] = field(default_factory=set[int])
    same_as: dict[int, Operand] = field(default_factory=dict[int, Operand])
    _made: dict[Hashable, Graph] = field(default_factory=dict[Hashable, Graph])

    def __post_init__(self) -> None:
        self.values, self.constants = list(self.graph.values), list(self.graph.constants)

    def put(self, match: Match) -> None:
        """Replace one place: results keep the names that their readers know."""
        names = _names(self.rule, match)
        key = kind(match)
        if key not in self._made:
            self._made[key] = _traced(self.rule, match, names)
        made = self._made[key]
        given = {i.value: match.operands[n] for i, n in zip(made.inputs, names, strict=True)}
        ends = {}
        for root, out in zip(match.roots, made.outputs, strict=True):
            if isinstance(out.operand, int) and out.operand in made.producers and out.operand not in ends:
                ends[out.operand] = root
            else:  # an operand as it is, a literal, or what another result is already
                self.same_as[root] = _operand(out.operand, {**given, **ends})
        self._copy(made, {**given, **ends}, match)
        self.gone.update(self.graph.producers[r] for r in match.roots)

    def _copy(self, made: Graph, called: dict[int, Operand], match: Match) -> None:
        for value, array in made.constants:
            called[value] = kept = self._value(made.values[value])
            self.constants.append((kept, array))
        place = min(self.graph.producers[r] for r in match.roots)
        source = next((s for s in (match.op(n).source for n in reversed(tuple(match.ops))) if s), "")
        origin = self.graph.ops[place].origin
        for op in made.ops:
            for r in op.results:
                if r not in called:
                    called[r] = self._value(made.values[r])
            results = tuple(v for v in (called[r] for r in op.results) if isinstance(v, int))
            self.new.append((place, replace(op, operands=tuple(_operand(o, called) for o in op.operands),
                                            results=results, source=source, origin=origin)))

    def _value(self, typed: Value) -> int:
        self.values.append(typed)
        return len(self.values) - 1

    def graph_after(self) -> Graph:
        """The graph with all that was put in."""
        placed = [(n, op) for n, op in enumerate(self.graph.ops) if n not in self.gone]
        ops = [(n, self._reading(op)) for n, op in sorted([*placed, *self.new], key=lambda p: p[0])]
        outputs = tuple(Output(self._final(o.operand), o.role, o.path, o.row) for o in self.graph.outputs)
        whole = replace(self.graph, values=tuple(self.values), ops=tuple(op for _, op in ops), outputs=outputs,
                        constants=tuple(self.constants))
        return without_dead_ops(in_order(whole))  # what is dead is told by readers that come later

    def _reading(self, op: Op) -> Op:
        if self.same_as.keys().isdisjoint(op.inputs):
            return op
        return replace(op, operands=tuple(self._final(o) for o in op.operands))

    def _final(self, operand: Operand) -> Operand:
        while isinstance(operand, int) and operand in self.same_as:
            operand = self.same_as[operand]
        return operand


def _operand(operand: Operand, called: Mapping[int, Operand]) -> Operand:
    return called[operand] if isinstance(operand, int) else operand


def _names(rule: Rule, match: Match) -> tuple[str, ...]:
    """What the replacement is given, in order."""
    by_terms = isinstance(rule.pattern, Call | tuple)
    return variables(rule.pattern) if by_terms else tuple(match.operands)  # type: ignore[arg-type]


def _traced(rule: Rule, match: Match, names: Sequence[str]) -> Graph:
    """The replacement as a graph."""
    fn: Callable[..., Any] = lambda *arrays: rule.replace(match, *arrays)  # noqa: E731
    types = [type_of(match.graph, match.operands[n]) for n in names]
    made = trace_graph(fn, [struct_of(t) for t in types], [Role.BATCH] * len(names),
                       keep_calls=_is_differentiated(match.graph))
    wanted = [match.graph.values[r] for r in match.roots]
    found = [type_of(made, o.operand) for o in made.outputs]
    if wanted != found:
        raise ValueError(f"rewrite {rule.name!r} makes {found} of {wanted}")
    return made


def _is_differentiated(graph: Graph) -> bool:
    """Whether a graph has a loss, or no parameters that could make it a model's: calls with derivatives of their own,
    and what is recomputed, mean something in it."""
    return any(o.role is Role.LOSS for o in graph.outputs) or all(i.role is Role.BATCH for i in graph.inputs)


def in_order(graph: Graph) -> Graph:
    """The graph with its operators in an order in which each comes after what it reads, as little changed as can be.

    Raises:
      ValueError: there is none.
    """
    waits = [len({graph.producers[v] for v in op.inputs if v in graph.producers}) for op in graph.ops]
    ready = [n for n, left in enumerate(waits) if not left]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        n = heapq.heappop(ready)
        order.append(n)
        for reader in {r for v in graph.ops[n].results for r in graph.consumers.get(v, ())}:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(order) != len(graph.ops):
        raise ValueError("a rewritten graph reads what is made from its own results")
    return graph if order == sorted(order) else replace(graph, ops=tuple(graph.ops[n] for n in order))
