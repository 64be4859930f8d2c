"""From a range of a program's forward operators to the choices of that layer: group, then link what groups share.

In: a `ProgramIndex` and forward operators [first, last). Out: a `LayerModel` (`choices.py` says what its parts are).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod

from planner.core.graph import Graph, Phase, Role
from planner.intraop.choices import Group, LayerModel, Link, Param, Read, Tensor
from planner.intraop.dims import Classes, unify
from planner.intraop.joining import Joint
from planner.program_index import ProgramIndex, crossing
from planner.rules import has_rule

ANCHORS = frozenset({
    "dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated", "gather", "scatter", "scatter-add",
    "scatter_add", "scatter_mul", "scatter-mul", "sort", "top_k", "scan", "while", "cond", "dynamic_slice",
    "dynamic_update_slice", "reduce_window", "reduce_window_max", "reduce_window_sum", "select_and_scatter_add",
    "select_and_gather_add", "cumsum", "cumlogsumexp", "cummax", "cumprod", "random_bits", "threefry2x32", "fft",
})
"""Operators that keep a group of their own: their choice of sharding is worth making separately."""

MAX_GROUP = 160
"""Operators in a group at most, so that a long residual stream is not forced into one sharding. [chosen]"""


def layer_model(index: ProgramIndex, first: int, last: int) -> LayerModel:
    """The choices of the layer made of forward operators [first, last)."""
    micro = index.program.micro
    units = {o: tuple(n for n in index.by_origin.get(o, ()) if n not in index.sums) for o in range(first, last)}
    chains = _param_chains(index, units, first, last)
    in_chain = {o for chain in chains.values() for o in chain}
    members = _merge(index, {o: u for o, u in units.items() if u and o not in in_chain})
    groups = tuple(Group(m, unify(micro, m, index.rules, index.owner)) for m in members)
    params = _params(index, units, chains, first, last)
    tensors, links, param_links = _links(index, groups, params, first, last)
    return LayerModel(groups, tensors, params, links, param_links)


def _param_chains(index: ProgramIndex, units: Mapping[int, tuple[int, ...]], first: int, last: int
                  ) -> dict[int, tuple[int, ...]]:
    """Parameter value -> origins of the casts and reshapes that read it alone."""
    micro = index.program.micro
    root: dict[int, int] = {v: v for v, role in index.role.items() if role is Role.PARAM}
    chains: dict[int, list[int]] = {}
    for o in range(first, last):
        forward = [micro.ops[n] for n in units[o] if micro.ops[n].phase is Phase.FORWARD]
        if len(forward) != 1 or forward[0].primitive in ANCHORS or not has_rule(forward[0].primitive):
            continue
        op = forward[0]
        if len(op.inputs) == 1 and op.inputs[0] in root and len(op.results) == 1 and \
                prod(micro.values[op.results[0]].shape) == prod(micro.values[op.inputs[0]].shape):
            root[op.results[0]] = root[op.inputs[0]]
            chains.setdefault(root[op.inputs[0]], []).append(o)
    return {p: tuple(c) for p, c in chains.items()}


def _merge(index: ProgramIndex, units: Mapping[int, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Join units that follow one another along forward values where their dimensions agree.

    In a train step written by the user, backward operators are units of their own: there, contractions that share an
    operand (a matmul and the two that differentiate it) join as well.
    """
    micro = index.program.micro
    groups: list[list[int]] = []
    classes: list[Joint] = []
    anchors: list[bool] = []
    home: dict[int, int] = {}  # value -> group that makes it
    readers: dict[int, int] = {}  # value -> last anchor group that reads it
    together = index.program.kind == "step"
    for o in sorted(units):
        unit = list(units[o])
        anchor = any(micro.ops[n].primitive in ANCHORS or not has_rule(micro.ops[n].primitive) for n in unit)
        mine = len(groups)
        groups.append(unit)
        classes.append(joint_of(index, unit))
        anchors.append(anchor)
        reads = _by_size(micro, {v for n in unit for v in micro.ops[n].inputs})
        for v in reads if not anchor else reads if together else ():
            other = (readers if anchor else home).get(v)
            if other is None or other == mine or anchors[other] != anchor or not groups[other] or \
                    len(groups[other]) + len(groups[mine]) > MAX_GROUP:
                continue
            if not classes[other].take(classes[mine]):
                continue
            groups[other] += groups[mine]
            groups[mine] = []
            for where in (home, readers):
                where.update({v2: other for v2, g in where.items() if g == mine})
            mine = other
        home.update({r: mine for n in unit for r in micro.ops[n].results})
        if anchor:
            readers.update(dict.fromkeys(reads, mine))
    return [tuple(sorted(g)) for g in groups if g]


def _by_size(graph: Graph, values: Iterable[int]) -> list[int]:
    return sorted(values, key=lambda v: (-prod(graph.values[v].shape), v))


def joint_of(index: ProgramIndex, unit: Sequence[int]) -> Joint:
    """The classes of a few operators, to be joined with others'."""
    micro, owner = index.program.micro, index.owner
    values = {v for n in unit for v in (*micro.ops[n].inputs, *micro.ops[n].results)}
    touched = ((owner.get(v, v), d) for v in values for d in range(len(micro.values[v].shape)))
    return Joint.from_classes(unify(micro, unit, index.rules, owner), touched)


def _params(index: ProgramIndex, units: Mapping[int, tuple[int, ...]], chains: Mapping[int, tuple[int, ...]],
            first: int, last: int) -> tuple[Param, ...]:
    micro = index.program.micro
    found: list[Param] = []
    for inp in micro.inputs_of(Role.PARAM):
        readers = [o for o in index.readers.get(inp.value, ()) if first <= o < last]
        if not readers:
            continue
        chain = tuple(n for o in chains.get(inp.value, ()) for n in units[o])
        chain_ops = set(chain)
        made = {inp.value} | {r for n in chain if micro.ops[n].phase is Phase.FORWARD for r in micro.ops[n].results}
        exported = tuple(sorted(v for v in made if _read_outside(index, v, chain_ops, first, last)))
        classes = unify(micro, chain, index.rules, index.owner) if chain else \
            _plain_classes(inp.value, micro.values[inp.value].shape)
        found.append(Param(inp.value, inp.path, inp.row, chain, classes, exported or (inp.value,),
                           index.opt_state_bytes.get((inp.path, inp.row), 0),
                           first <= index.first_reader[inp.value] < last))
    return tuple(found)


def _read_outside(index: ProgramIndex, value: int, chain: set[int], first: int, last: int) -> bool:
    micro = index.program.micro
    return any(value in micro.ops[n].inputs for o in index.readers.get(value, ()) if first <= o < last
               for n in index.by_origin[o] if n not in chain)


def _plain_classes(value: int, shape: Sequence[int]) -> Classes:
    n = len(shape)
    return Classes({(value, d): d for d in range(n)}, tuple(shape), (False,) * n, (), False)


@dataclass(frozen=True)
class _Touches:
    """What the groups of a layer do with values, by owner."""

    reads: Mapping[tuple[int, int], Sequence[Read]]  # (owner, group)
    makes: Mapping[tuple[int, int], Sequence[tuple[int, int]]]  # (owner, group) -> (value, op)
    groups: Mapping[int, Set[int]]
    saved: Set[int]  # owners that a backward operator reads


def _touches(index: ProgramIndex, groups: Sequence[Group]) -> _Touches:
    micro = index.program.micro
    reads: dict[tuple[int, int], list[Read]] = {}
    makes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    saved: set[int] = set()
    touched: dict[int, set[int]] = {}
    for g, group in enumerate(groups):
        inside = {r for n in group.ops for r in micro.ops[n].results}
        for n in group.ops:
            op = micro.ops[n]
            for position, v in enumerate(op.operands):
                if not isinstance(v, int):
                    continue
                own = index.owner.get(v, v)
                touched.setdefault(own, set()).add(g)
                if v == own and op.phase is Phase.BACKWARD:
                    saved.add(own)
                if v not in inside:
                    reads.setdefault((own, g), []).append(Read(v, n, position))
            for r in op.results:
                own = index.owner.get(r, r)
                touched.setdefault(own, set()).add(g)
                makes.setdefault((own, g), []).append((r, n))
    return _Touches(reads, makes, touched, saved)


def _links(index: ProgramIndex, groups: Sequence[Group], params: Sequence[Param], first: int, last: int
           ) -> tuple[tuple[Tensor, ...], tuple[Link, ...], tuple[Link, ...]]:
    param_of = {v: p for p, param in enumerate(params) for v in (param.value, *param.exported)}
    touches = _touches(index, groups)
    tensors: list[Tensor] = []
    links: list[Link] = []
    param_links: list[Link] = []
    for own in sorted(touches.groups):
        pairs = [(g, tuple(touches.reads.get((own, g), ())), tuple(touches.makes.get((own, g), ())))
                 for g in sorted(touches.groups[own])]
        if own in param_of:
            param_links += [Link(param_of[own], g, r, m) for g, r, m in pairs]
            continue
        place = _place(index, own, first, last)
        if place == "inner" and len(pairs) == 1 and not pairs[0][1]:
            continue  # never leaves its group
        item = len(tensors)
        made_here = first <= index.maker.get(own, -1) < last
        tensors.append(Tensor(own, place, own in touches.saved or own in index.alive_at_peak, made_here,
                              index.program.kind == "step" and index.role.get(own) is Role.STATE))
        links += [Link(item, g, r, m) for g, r, m in pairs]
    for own in _passing(index, first, last):
        if own not in touches.groups:
            tensors.append(Tensor(own, "through", False, False))
    return tuple(tensors), tuple(links), tuple(param_links)


def _place(index: ProgramIndex, own: int, first: int, last: int) -> str:
    if own in index.role:
        return "input"
    comes = index.maker.get(own, first) < first
    leaves = any(o >= last for o in index.readers.get(own, ()))
    return "through" if comes and leaves else "in" if comes else "out" if leaves else "inner"


def _passing(index: ProgramIndex, first: int, last: int) -> list[int]:
    leaving = set(crossing(index, last))
    return [v for v in crossing(index, first) if v in leaving]
