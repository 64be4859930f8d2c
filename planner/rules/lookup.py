"""What the rest of the planner asks of the rules, for an operator in its graph.

In: `Graph` and `Op`. Out: `OpRule`, FLOPs, and a warning for each primitive that has no rule. Such an operator is
replicated: that costs time, never numbers.
"""

from collections import Counter, defaultdict

from planner.core.graph import Graph, Op, Operand, Value
from planner.core.spec import OpRule
from planner.rules.labels import elements, replicated_rule
from planner.rules.table import RULES

_SOURCES_SHOWN = 3


def operand_types(graph: Graph, operands: tuple[Operand, ...]) -> tuple[Value, ...]:
    """The types of operands, literals included."""
    return tuple(graph.values[o] if isinstance(o, int) else Value(o.shape, o.dtype) for o in operands)


def has_rule(primitive: str) -> bool:
    """Whether the table knows the primitive."""
    return RULES.get(primitive) is not None


def is_elementwise(primitive: str) -> bool:
    """Whether the primitive is known to work element by element."""
    rule = RULES.get(primitive)
    return rule is not None and rule.elementwise


def rule_of(graph: Graph, op: Op) -> OpRule:
    """How the operator may be sharded; a primitive without a rule is fully replicated."""
    rule, ins, outs = RULES.get(op.primitive), operand_types(graph, op.operands), operand_types(graph, op.results)
    return replicated_rule(ins, outs) if rule is None else rule.factors(op, ins, outs)


def rules_of(graph: Graph) -> tuple[OpRule, ...]:
    """The rule of every operator, in order: hold on to it instead of asking `rule_of` twice."""
    return tuple(rule_of(graph, op) for op in graph.ops)


def flops_of(graph: Graph, op: Op) -> int:
    """Floating-point operations of one run of the operator, nested bodies included, by XLA's conventions.

    A primitive without a rule counts one per result element.
    """
    rule, ins, outs = RULES.get(op.primitive), operand_types(graph, op.operands), operand_types(graph, op.results)
    return sum(elements(v) for v in outs) if rule is None else rule.flops(op, ins, outs)


def graph_flops(graph: Graph) -> int:
    """Floating-point operations of one run of the graph. A `scan` counts its body `length` times, a `while` once."""
    return sum(flops_by_op(graph))


def flops_by_op(graph: Graph) -> list[int]:
    """`flops_of` every operator, in order; those that are alike (of repeated layers) are asked once."""
    known: dict[int, int] = {}
    found: list[int] = []
    for kind, op in zip(graph.kinds, graph.ops, strict=True):
        if kind not in known:
            known[kind] = flops_of(graph, op)
        found.append(known[kind])
    return found


def main_dtype(graph: Graph) -> str:
    """The dtype that most floating-point operations of the graph read; `"default"` where none is floating."""
    work: defaultdict[str, int] = defaultdict(int)
    first = dict(zip(reversed(graph.kinds), reversed(graph.ops), strict=True))
    for kind, times in Counter(graph.kinds).items():
        floats = [v.dtype for v in operand_types(graph, first[kind].operands) if "float" in v.dtype]
        if floats:
            work[floats[0]] += times * flops_of(graph, first[kind])
    return max(work, key=lambda dtype: (work[dtype], dtype), default="default")


def warnings_of(graph: Graph) -> tuple[str, ...]:
    """One line per primitive that runs whole on every device, in order of first use.

    That is, one without a rule or one that the compiler cannot partition. The line has its name, how often it appears
    (nested graphs included), and the user's source lines.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    _collect(graph, found)
    return tuple(_warning(primitive, sources) for primitive, sources in found.items())


def _collect(graph: Graph, found: defaultdict[str, list[str]]) -> None:
    for op in graph.ops:
        rule = RULES.get(op.primitive)
        if rule is None or rule.whole(op, operand_types(graph, op.operands), operand_types(graph, op.results)):
            found[op.primitive].append(op.source)
        for body in op.bodies:
            _collect(body, found)


def _warning(primitive: str, sources: list[str]) -> str:
    places = list(dict.fromkeys(s for s in sources if s))
    where = ", ".join(places[:_SOURCES_SHOWN]) or "source unknown"
    more = f" and {len(places) - _SOURCES_SHOWN} more places" if len(places) > _SOURCES_SHOWN else ""
    times = "once" if len(sources) == 1 else f"{len(sources)} times"
    why = "the compiler does not partition it" if has_rule(primitive) else "it has no sharding rule"
    return f"{primitive!r} runs whole on every device, {why} ({times}; {where}{more})"
