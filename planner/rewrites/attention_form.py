"""Attention as users write it: scores, a scale, biases, a mask, a softmax, and the product with the values.

Found from its last product up. A softmax is what divides exponentials by their sum, whatever was subtracted before: it
is the same for any shift. Dimensions are called by letters: those of the weights, in their order, and `H` for what
scores are contracted over.

In: a `Graph`. Out: `Form`s, with `Match`es that name their operators and operands.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from string import ascii_lowercase

import numpy as np

from planner.core.graph import Graph, Op, Operand
from planner.rewrites.einsums import Letters, numbers
from planner.rewrites.pattern import Match, number_of, type_of

FAR = -1e4
"""A score at or below it is masked. [chosen: a softmax in float32 makes 0 of what is 104 below the largest]"""

HEAD, VALUE = "H", "V"


@dataclass(frozen=True)
class Softmax:
    """A softmax: of which value along which dimension; its operators."""

    of: Operand
    axis: int
    ops: frozenset[int]


@dataclass(frozen=True)
class Form:
    """An attention.

    Attributes:
      ops: all its operators, from the scores to the result.
      letters: of the dimensions of `query`, `key`, `value`, `bias` and `mask`, as far as there are any; letters of
        dimensions of size 1 say nothing.
      scale: what scores are multiplied by.
      masked: what the mask is where a score is taken away.
      result: letters of the result's dimensions.
      match: the place; its operands are called as in `letters`.
    """

    ops: frozenset[int]
    letters: Mapping[str, Letters]
    scale: float
    masked: bool
    result: Letters
    match: Match


@dataclass(frozen=True)
class _Scores:
    """What was found on the way up from a softmax."""

    at: Operand
    letters: Letters
    along: str  # the letter that the softmax goes along
    ops: frozenset[int]
    scale: float | None = None
    bias: tuple[Operand, Letters] | None = None
    mask: tuple[Operand, Letters] | None = None
    masked: bool = False
    inner: dict[str, tuple[Operand, Letters]] = field(default_factory=dict[str, tuple[Operand, Letters]])


def forms(graph: Graph) -> Iterator[Form]:
    """The attentions of a graph."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            found = _form(graph, n, op, side)
            if found is not None and _private(graph, found.ops, op.results[0]):
                yield found


def form_at(match: Match) -> Form:
    """The attention at a place that was found."""
    n = match.ops["result"]
    found = (_form(match.graph, n, match.op("result"), side) for side in (0, 1))
    return next(form for form in found if form is not None)


def _form(graph: Graph, n: int, op: Op, side: int) -> Form | None:
    contracted, batch = numbers(op)
    weights, passed = _through(graph, op.operands[side], ("convert_element_type",))
    soft = softmax(graph, weights) if len(contracted[side]) == 1 else None
    if soft is None or soft.axis != contracted[side][0]:
        return None
    letters = tuple(ascii_lowercase[:len(type_of(graph, weights).shape)])
    start = _Scores(soft.of, letters, letters[soft.axis], soft.ops | passed | {n})
    found = _up(graph, start)
    if found is None:
        return None
    value = [VALUE] * len(type_of(graph, op.operands[1 - side]).shape)
    for d, e in zip((*contracted[side], *batch[side]), (*contracted[1 - side], *batch[1 - side]), strict=True):
        value[e] = letters[d]
    t = letters[soft.axis]
    heads = {letters[d] for d in batch[side]}
    named = {**found.inner, "value": (op.operands[1 - side], tuple(value))}
    if not _fits(named, set(letters), heads, t):
        return None
    free = [x for x in letters if x not in heads and x != t]
    result = [letters[d] for d in batch[side]] + ([*free, VALUE] if side == 0 else [VALUE, *free])
    named |= {name: extra for name, extra in (("bias", found.bias), ("mask", found.mask)) if extra is not None}
    match = Match(graph, {"result": n, **{f"op{k}": m for k, m in enumerate(sorted(found.ops - {n}))}},
                  {name: operand for name, (operand, _) in named.items()}, {}, op.results)
    scale = 1.0 if found.scale is None else found.scale
    return Form(found.ops, {name: of for name, (_, of) in named.items()}, scale, found.masked, tuple(result), match)


def _fits(named: Mapping[str, tuple[Operand, Letters]], letters: set[str], heads: set[str], t: str) -> bool:
    """Whether keys have heads, positions and sizes, and queries everything but the keys' position."""
    query, key, value = (named[name][1] for name in ("query", "key", "value"))
    return sorted(key) == sorted((*heads, t, HEAD)) and sorted(value) == sorted((*heads, t, VALUE)) and \
        sorted(query) == sorted((*(letters - {t}), HEAD)) and bool(letters - heads - {t})


def _private(graph: Graph, ops: frozenset[int], result: int) -> bool:
    """Whether nothing else reads what is between."""
    outputs = {o.operand for o in graph.outputs}
    made = {v for n in ops for v in graph.ops[n].results} - {result}
    return made.isdisjoint(outputs) and all(ops.issuperset(graph.consumers.get(v, ())) for v in made)


def _through(graph: Graph, operand: Operand, primitives: tuple[str, ...]) -> tuple[Operand, frozenset[int]]:
    """What an operand was before operators of some primitives, and those operators."""
    passed: set[int] = set()
    while isinstance(operand, int):
        n = graph.producers.get(operand)
        if n is None or graph.ops[n].primitive not in primitives:
            break
        passed.add(n)
        operand = graph.ops[n].operands[0]
    return operand, frozenset(passed)


def _made(graph: Graph, operand: Operand, primitive: str) -> int | None:
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    return n if n is not None and graph.ops[n].primitive == primitive else None


CASTS = ("convert_element_type",)


def softmax(graph: Graph, operand: Operand) -> Softmax | None:
    """The softmax that made an operand, if one did."""
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    if n is None:
        return None
    op = graph.ops[n]
    if op.primitive == "custom_jvp_call" and "softmax" in str(op.params.get("name")) and len(op.operands) == 1:
        body = op.bodies[0]
        inner = softmax(body, body.outputs[0].operand)
        whole = inner is not None and inner.of == body.inputs[0].value
        return Softmax(op.operands[0], inner.axis, frozenset({n})) if inner is not None and whole else None
    if op.primitive != "div":
        return None
    above, cast = _through(graph, op.operands[0], CASTS)
    e = _made(graph, above, "exp")
    below, spread = _through(graph, op.operands[1], (*CASTS, "broadcast_in_dim", "reshape"))
    total = _made(graph, below, "reduce_sum")
    if e is None or total is None or len(graph.ops[total].params["axes"]) != 1:
        return None
    summed, cast_too = _through(graph, graph.ops[total].operands[0], CASTS)
    shape, axis = type_of(graph, operand).shape, int(graph.ops[total].params["axes"][0])
    if summed != above or not _one_per_row(graph, op.operands[1], shape, axis):
        return None
    ops = frozenset({n, e, total}) | cast | cast_too | spread
    shift = _made(graph, graph.ops[e].operands[0], "sub")
    if shift is not None and _one_per_row(graph, graph.ops[shift].operands[1], shape, axis):
        of = graph.ops[shift].operands[0]
        return Softmax(of, axis, ops | {shift} | _largest(graph, graph.ops[shift].operands[1], of))
    return Softmax(graph.ops[e].operands[0], axis, ops)


def _one_per_row(graph: Graph, operand: Operand, shape: tuple[int, ...], axis: int) -> bool:
    own = type_of(graph, operand).shape
    return own == (*shape[:axis], 1, *shape[axis + 1:])


def _largest(graph: Graph, operand: Operand, of: Operand) -> frozenset[int]:
    """The operators that make the largest score of each row: what a softmax subtracts needs no gradient."""
    found: set[int] = set()
    while isinstance(operand, int) and operand != of:
        n = graph.producers.get(operand)
        if n is None:
            break
        found.add(n)
        ints = graph.ops[n].inputs
        if len(ints) != 1:
            break
        operand = ints[0]
    return frozenset(found)


def _up(graph: Graph, found: _Scores) -> _Scores | None:
    """From what a softmax is of up to the product of queries and keys."""
    n = graph.producers.get(found.at) if isinstance(found.at, int) else None
    if n is None:
        return None
    op, found = graph.ops[n], replace(found, ops=found.ops | {n})
    if op.primitive == "dot_general":
        return _product(graph, op, found)
    if op.primitive == "convert_element_type":
        return _up(graph, replace(found, at=op.operands[0]))
    if op.primitive == "transpose":
        letters = [""] * len(found.letters)
        for d, p in enumerate(op.params["permutation"]):
            letters[p] = found.letters[d]
        return _up(graph, replace(found, at=op.operands[0], letters=tuple(letters)))
    if op.primitive == "select_n" and len(op.operands) == 3 and found.mask is None and found.bias is None \
            and found.scale is None:
        return _masked(graph, op, found)
    if op.primitive == "add" and found.scale is None and found.bias is None:
        return _biased(graph, op, found)
    if op.primitive in ("mul", "div") and found.scale is None:
        return _scaled(graph, op, found)
    return None


def _masked(graph: Graph, op: Op, found: _Scores) -> _Scores | None:
    for case in (0, 1):
        fill = number_of(graph, op.operands[1 + case])
        if fill is not None and float(fill) <= FAR:
            return _up(graph, replace(found, at=op.operands[2 - case], mask=_narrow(graph, op.operands[0], found),
                                      masked=bool(case)))
    return None


def _narrow(graph: Graph, operand: Operand, found: _Scores) -> tuple[Operand, Letters]:
    """An operand before it was broadcast, and its letters."""
    n = _made(graph, operand, "broadcast_in_dim")
    shape = type_of(graph, operand).shape
    if n is None or not shape or not graph.ops[n].inputs:
        return operand, found.letters if shape else ()
    return graph.ops[n].operands[0], tuple(found.letters[int(d)] for d in graph.ops[n].params["broadcast_dimensions"])


def _biased(graph: Graph, op: Op, found: _Scores) -> _Scores | None:
    for scores, bias in ((0, 1), (1, 0)):
        if number_of(graph, op.operands[bias]) is None:
            above = _up(graph, replace(found, at=op.operands[scores], bias=_narrow(graph, op.operands[bias], found)))
            if above is not None:
                return above
    return None


def _scaled(graph: Graph, op: Op, found: _Scores) -> _Scores | None:
    for scores, by in ((0, 1),) if op.primitive == "div" else ((0, 1), (1, 0)):
        number = number_of(graph, op.operands[by])
        if number is not None and float(number):
            scale = 1 / float(np.float64(number)) if op.primitive == "div" else float(number)
            return _up(graph, replace(found, at=op.operands[scores], scale=scale))
    return None


def _product(graph: Graph, op: Op, found: _Scores) -> _Scores | None:
    contracted, batch = numbers(op)
    if len(contracted[0]) != 1:
        return None
    sides: list[list[str]] = []
    rest = iter(found.letters[len(batch[0]):])
    for side in (0, 1):
        rank = len(type_of(graph, op.operands[side]).shape)
        shared = dict(zip(batch[side], found.letters, strict=False)) | {contracted[side][0]: HEAD}
        sides.append([shared[d] if d in shared else next(rest) for d in range(rank)])
    left, right = ((o, tuple(of)) for o, of in zip(op.operands, sides, strict=True))
    key, query = (left, right) if found.along in left[1] else (right, left)
    return replace(found, inner={"query": query, "key": key})
