"""Shardings of values that the plan leaves open, as they follow from their producers' operands.

One pass in program order: an operator's factors take the axes of its operands, results take those of their factors, as
GSPMD would propagate. In: `Annotated`. Out: per stage, what its operators produce, and over which axes they sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.core.graph import Operand
from planner.core.spec import FactorKind, OpRule, Spec, replicated
from planner.emit.annotated import Annotated
from planner.rules import RuleTable


@dataclass(frozen=True)
class Inferred:
    """Per stage.

    Attributes:
      rules: operator -> its rule.
      reduced: operator -> (factor, axes) of the sharded dimensions that it sums over, if it sums over any.
      natural: value -> sharding that its producer gives it (before any constraint on it).
    """

    rules: Mapping[int, OpRule]
    reduced: Mapping[int, tuple[tuple[int, tuple[int, ...]], ...]]
    natural: Mapping[int, Spec]


@dataclass
class _Stage:
    """A stage, as far as it is known."""

    specs: dict[int, Spec]
    rules: dict[int, OpRule] = field(default_factory=dict[int, OpRule])
    reduced: dict[int, tuple[tuple[int, tuple[int, ...]], ...]] = field(
        default_factory=dict[int, tuple[tuple[int, tuple[int, ...]], ...]])
    natural: dict[int, Spec] = field(default_factory=dict[int, Spec])


def infer(given: Annotated) -> list[Inferred]:
    """Propagate through the operators of every stage."""
    rules, stages = RuleTable(given.graph), [_Stage(dict(specs)) for specs in given.specs]
    resharding, known = {n for n, _ in given.uses}, dict[tuple[int, tuple[Spec, ...]], _Followed]()
    for n, op in enumerate(given.graph.ops):
        at = stages[given.stage_of[n]]
        specs, natural = at.specs, at.natural
        if op.primitive == "optimization_barrier":
            natural |= {r: _spec(given, specs, o) for r, o in zip(op.results, op.operands, strict=True)}
        else:
            rule = at.rules[n] = rules[n]
            read = [_spec(given, specs, o) for o in op.operands]
            if n in resharding:
                read = [given.uses.get((n, k), spec) for k, spec in enumerate(read)]
            key = (id(rule), tuple(read))
            found = known.get(key) or known.setdefault(key, _followed(rule, read))
            natural.update(zip(op.results, found.results, strict=True))
            if found.reduced:
                at.reduced[n] = found.reduced
        for v in op.results:
            specs.setdefault(v, natural[v])
    return [Inferred(s.rules, s.reduced, s.natural) for s in stages]


def _spec(given: Annotated, specs: Mapping[int, Spec], operand: Operand) -> Spec:
    if not isinstance(operand, int):
        return replicated(len(operand.shape))
    return specs.get(operand, replicated(len(given.graph.values[operand].shape)))


@dataclass(frozen=True, slots=True)
class _Followed:
    """Shardings of results, and what is summed over: the same for operators of repeated layers."""

    results: tuple[Spec, ...]
    reduced: tuple[tuple[int, tuple[int, ...]], ...]


def _followed(rule: OpRule, operands: Sequence[Spec]) -> _Followed:
    axes = _factor_axes(rule, operands)
    results = tuple(tuple(axes.get(f, ()) if f is not None else () for f in binding) for binding in rule.results)
    sums = tuple((f, a) for f, a in sorted(axes.items()) if rule.factors[f].kind is FactorKind.REDUCE)
    return _Followed(results, sums if rule.combine == "sum" else ())


def _factor_axes(rule: OpRule, operands: Sequence[Spec]) -> dict[int, tuple[int, ...]]:
    """Factor -> mesh axes: the first operand that shards it decides; no axis is used twice."""
    found: dict[int, tuple[int, ...]] = {}
    used: set[int] = set()
    for binding, spec in zip(rule.operands, operands, strict=True):
        for factor, axes in zip(binding, spec, strict=True):
            if factor is not None and axes and factor not in found and not used.intersection(axes):
                found[factor] = axes
                used.update(axes)
    return found
