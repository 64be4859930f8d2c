"""Gradients summed over devices once per batch instead of once per microbatch.

A weight gradient is a sum over examples. Where the examples are sharded over mesh axes, each device has a part of it,
and GSPMD adds the parts at once. Here the summed dimension is cut into one part per shard first, the operator is run
for every part (`vmap`, or `shard_map` for convolutions), and the parts stay apart in a leading dimension that is
sharded as the examples are: a local sum. What follows on the way to the gradient (transposes, casts) is run for every
part too. What another reader of the same parameter contributes without such a sum (tied weights) joins as the first
part. The runtime accumulates the parts over microbatches and adds them up once. A gradient that is no such sum is
accumulated in the sharding that it is made in. Where the way is of another form, the gradient is combined in every
microbatch, with a warning.

In: `Annotated`. Out: `Annotated` whose deferred gradients have leading dimensions, and warnings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from planner.core.graph import Graph, Op, Phase, Role, Value
from planner.core.plan import ParamPlan, PlanRecord
from planner.core.spec import Spec, axes_of, is_legal, replicated
from planner.costs.memory import itemsize, sum_itemsize
from planner.emit.annotated import Annotated
from planner.emit.contributions import contributions
from planner.emit.inferred import Inferred, infer
from planner.emit.payloads import FirstPart, Local, Mapped

SPLITTABLE = frozenset({"dot_general", "reduce_sum", "scatter-add", "scatter_add"})
"""Sums that GSPMD partitions well when mapped over a sharded leading dimension."""

LOCAL = frozenset({"conv_general_dilated"})
"""Sums that it doesn't: a mapped convolution becomes a grouped one, which it gathers. Each device runs its own part."""

LINEAR = frozenset({"transpose", "reshape", "convert_element_type", "squeeze", "reduce_sum", "neg", "copy", "mul",
                    "div"})
"""Operators that may be done to every part before the parts are added (mul, div: by a literal)."""

SUMS = frozenset({"add", "add_any", "sub", "select_n"})
"""Operators whose result is partial if an operand is."""

Leads = tuple[tuple[tuple[int, ...], int], ...]
"""Leading dimensions of a gradient in parts: the mesh axes and the number of parts of each."""


@dataclass(frozen=True)
class _Way:
    """From the operator that sums over examples to the gradient: operators, leading dimensions, and what is cut."""

    ops: tuple[int, ...]
    leads: Leads
    cuts: tuple[tuple[int | None, ...], ...]


@dataclass(frozen=True)
class _Lift:
    """A contribution with fewer leading dimensions than the others to the same gradient (tied weights): it becomes the
    first part, so that all are added up as they are."""

    stage: int
    param: int
    value: int
    own: Leads
    leads: Leads

    @property
    def payload(self) -> FirstPart:
        missing = [n for n, lead in enumerate(self.leads) if lead not in self.own]
        return FirstPart(tuple(missing), tuple(self.leads[n][1] for n in missing))


def with_deferred_gradients(record: PlanRecord, given: Annotated, inferred: Sequence[Inferred] | None = None
                            ) -> tuple[Annotated, tuple[str, ...]]:
    """Defer what the plan defers.

    Args:
      record: the plan.
      given: the graph under it.
      inferred: what `infer` says of each stage of `given`, where it is known already.

    Returns:
      The rewritten graph, and a warning that counts the gradients that could not be deferred.
    """
    deferred = [p for p in record.params if p.deferred] if record.kind == "train" else []
    if not deferred:
        return given, ()
    edit = _Edit(record, given, inferred or infer(given))
    for param in deferred:
        for stage in range(len(record.stages)):
            edit.defer(param, stage)
    return edit.finish()


def lead_count(given: Annotated, param: ParamPlan, value: int) -> int:
    """Leading dimensions of a contribution to the gradient of a parameter: 0 unless it is deferred."""
    return len(given.graph.values[value].shape) - len(param.shape)


def settled_spec(given: Annotated, param: ParamPlan, stage: int) -> Spec:
    """The sharding in which a gradient is accumulated on a stage, leading dimensions included."""
    return given.sums[stage, param.value] if (stage, param.value) in given.sums else final_spec(given, param, stage)


def final_spec(given: Annotated, param: ParamPlan, stage: int) -> Spec:
    """The sharding of the gradient of the batch on a stage: the update's at home; elsewhere (tied weights) as the
    parameter lies there."""
    if stage == param.home:
        return param.update_spec
    return given.specs[stage].get(param.value, replicated(len(param.shape)))


def ends_in_place(given: Annotated, param: ParamPlan, value: int, stage: int) -> bool:
    """Whether the gradient of the batch, of which `value` is a contribution, takes the place of the sum on a stage."""
    return not lead_count(given, param, value) and sum_itemsize(param.dtype) == itemsize(param.dtype) \
        and settled_spec(given, param, stage) == final_spec(given, param, stage)


class _Edit:
    """The rewrite under way."""

    def __init__(self, record: PlanRecord, given: Annotated, inferred: Sequence[Inferred]) -> None:
        self._record, self._given = record, given
        self._producer, self._readers = given.graph.producers, given.graph.consumers
        self._inferred = inferred
        self._ways: list[tuple[int, _Way]] = []
        self._lifts: list[_Lift] = []
        self._sums: dict[tuple[int, int], Spec] = {}
        self._failed: list[str] = []

    def defer(self, param: ParamPlan, stage: int) -> None:
        """Defer what one stage contributes to one gradient, if every contribution allows it."""
        values = [v for v in contributions(self._given.graph, param)
                  if self._given.stage_of[self._producer[v]] == stage]
        ways = [self._way(v, stage) for v in values]
        found = [(v, w) for v, w in zip(values, ways, strict=True) if isinstance(w, _Way)]
        if not found and "other" not in ways:
            self._keep(param, stage, values)
            return
        leads = _together([w.leads for _, w in found])
        specs = [self._spec(v, w.leads, stage) for v, w in found]
        lifts = [_Lift(stage, param.value, v, w.leads if isinstance(w, _Way) else (), leads or ())
                 for v, w in zip(values, ways, strict=True) if not isinstance(w, _Way) or w.leads != leads]
        total = self._spec(found[0][0], leads, stage) if leads else None
        if "other" in ways or None in (total, *specs) or not all(self._can_lift(x) for x in lifts):
            self._failed.append(param.path if param.row is None else f"{param.path}[{param.row}]")
            return
        self._ways += [(stage, w) for _, w in found]
        self._lifts += lifts
        self._sums |= {(stage, param.value): total} if total is not None else {}

    def _keep(self, param: ParamPlan, stage: int, values: Sequence[int]) -> None:
        """Accumulate a gradient that is whole as it is made, if bringing it to the parameter takes communication."""
        made = {self._inferred[stage].natural[v] for v in values}
        target = final_spec(self._given, param, stage)
        if len(made) == 1 and any(axes != to[:len(axes)] for axes, to in zip(*made, target, strict=True)):
            self._sums[stage, param.value] = made.pop()

    def finish(self) -> tuple[Annotated, tuple[str, ...]]:
        """The rewritten graph and the warnings."""
        graph = self._given.graph
        values, ops, stage_of = list(graph.values), list(graph.ops), list(self._given.stage_of)
        specs, uses = [dict(s) for s in self._given.specs], dict(self._given.uses)
        annotated_at = _positions(uses)
        for stage, way in self._ways:
            for k, n in enumerate(way.ops):
                op = ops[n]
                ops[n] = replace(op, payload=_payload(op, way, first=k == 0))
                if k:
                    for key in annotated_at.get(n, ()):
                        uses.pop(key, None)
                v = op.results[0]
                spec = self._spec(v, way.leads, stage)
                values[v] = Value((*(parts for _, parts in way.leads), *values[v].shape), values[v].dtype)
                specs[stage].pop(v, None)
                if spec is not None:
                    specs[stage][v] = spec
        lifted: dict[int, int] = {}
        for lift in self._lifts:
            before = values[lift.value]
            shape = before.shape[len(lift.own):]
            if not lift.own:
                specs[lift.stage].pop(lift.value, None)
            new = lifted[lift.value] = len(values)
            values.append(Value((*(parts for _, parts in lift.leads), *shape), before.dtype))
            specs[lift.stage][new] = self._sums[lift.stage, lift.param]
            ops.append(Op("first_part", (lift.value,), (new,), MappingProxyType({}), (), "", Phase.BACKWARD, -1,
                          lift.payload))
            stage_of.append(lift.stage)
        outputs = tuple(replace(o, operand=lifted.get(o.operand, o.operand)) if o.role is Role.GRAD and
                        isinstance(o.operand, int) else o for o in graph.outputs)
        done = replace(graph, values=tuple(values), ops=tuple(ops), outputs=outputs)
        annotated = Annotated(done, tuple(stage_of), tuple(MappingProxyType(s) for s in specs),
                              MappingProxyType(uses), MappingProxyType(self._sums))
        return annotated, _warnings(self._failed)

    def _can_lift(self, lift: "_Lift") -> bool:
        """Whether no device has to fetch anything for it: the value isn't sharded along the new dimensions' axes."""
        new = {a for lead in lift.leads if lead not in lift.own for a in lead[0]}
        return not new & axes_of(self._inferred[lift.stage].natural[lift.value])

    def _way(self, value: int, stage: int) -> "_Way | str":
        """The way to a contribution, `"whole"` if no sum over sharded examples is on it, or `"other"`."""
        graph, inferred = self._given.graph, self._inferred[stage]
        passed: list[int] = []
        while True:
            n = self._producer.get(value)
            if n is None or self._given.stage_of[n] != stage:
                return "whole"
            op = graph.ops[n]
            partial = inferred.reduced.get(n, ())
            if partial:
                splits = op.primitive in SPLITTABLE | LOCAL and len(op.results) == 1
                return self._cut(op, n, partial, passed, stage) if splits else "other"
            if op.primitive not in LINEAR or len(op.inputs) != 1 or self._readers.get(op.inputs[0], []) != [n]:
                return "other" if op.primitive in LINEAR | SUMS and self._partial_before(n, stage) else "whole"
            passed.append(n)
            value = op.inputs[0]

    def _partial_before(self, n: int, stage: int) -> bool:
        """Whether the operator is given a gradient that is a sum over sharded examples, or something linear in one."""
        for v in self._given.graph.ops[n].inputs:
            m = self._producer.get(v)
            if m is not None and (self._inferred[stage].reduced.get(m) or (
                    self._given.graph.ops[m].primitive in LINEAR | SUMS and self._partial_before(m, stage))):
                return True
        return False

    def _cut(self, op: Op, n: int, partial: Sequence[tuple[int, tuple[int, ...]]], passed: Sequence[int], stage: int
             ) -> "_Way | str":
        rule, mesh = self._inferred[stage].rules[n], self._record.stages[stage].mesh_shape
        leads, cuts = [], []
        for factor, axes in partial:
            parts = 1
            for a in axes:
                parts *= mesh[a]
            leads.append((axes, parts))
            cuts.append(tuple(b.index(factor) if factor in b else None for b in rule.operands))
        return _Way((n, *reversed(passed)), tuple(leads), tuple(cuts)) if _divides(self._given.graph, op, leads, cuts) \
            else "other"

    def _spec(self, value: int, leads: Leads, stage: int) -> Spec | None:
        used = {a for axes, _ in leads for a in axes}
        rest = self._inferred[stage].natural[value]
        spec = (*(axes for axes, _ in leads), *(tuple(a for a in axes if a not in used) for axes in rest))
        shape = (*(parts for _, parts in leads), *self._given.graph.values[value].shape)
        return spec if is_legal(spec, shape, self._record.stages[stage].mesh_shape) else None


def _positions(uses: Mapping[tuple[int, int], Spec]) -> dict[int, list[tuple[int, int]]]:
    """Operator -> its keys."""
    found: dict[int, list[tuple[int, int]]] = {}
    for key in uses:
        found.setdefault(key[0], []).append(key)
    return found


def _together(ways: Sequence[Leads]) -> Leads | None:
    """The leading dimensions of a sum of gradients in parts; None if they do not go together."""
    found = list(max(ways, key=len, default=()))
    for leads in ways:
        if [lead for lead in found if lead in leads] != list(leads):
            return None
    return tuple(found)


def _payload(op: Op, way: _Way, *, first: bool) -> Mapped | Local:
    parts = tuple(parts for _, parts in way.leads)
    if not first:
        along = tuple(-1 if isinstance(o, int) else None for o in op.operands)
        return Mapped(op.payload, (along,) * len(parts), parts)
    if op.primitive in LOCAL:
        return Local(op.payload, way.cuts, tuple(axes for axes, _ in way.leads))
    return Mapped(op.payload, way.cuts, parts)


def _divides(graph: Graph, op: Op, leads: Sequence[tuple[tuple[int, ...], int]],
             cuts: Sequence[Sequence[int | None]]) -> bool:
    shapes = [graph.values[o].shape if isinstance(o, int) else o.shape for o in op.operands]
    return all(any(d is not None for d in cut) and all(d is None or shape[d] % parts == 0 for d, shape in
                                                       zip(cut, shapes, strict=True))
               for (_, parts), cut in zip(leads, cuts, strict=True))


def _warnings(failed: Sequence[str]) -> tuple[str, ...]:
    if not failed:
        return ()
    shown = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
    return (f"{len(failed)} gradients are combined in every microbatch, though the plan would combine them once per "
            f"batch: {shown}",)
