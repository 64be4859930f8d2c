"""Rings that XLA makes of a collective and the product beside it: windowed einsums, or collective matmuls.

Where a product's operand must be gathered, or its result scattered, and is large (100 MiB on TPU), the partitioner
multiplies shard by shard in a loop, and passes shards on meanwhile. The loop runs both ways around the ring and handles
two shards a turn; a permute before it (gather) or behind it (scatter) evens the ways out. What is passed on is counted
as it is, and is more than a ring needs: with n devices n + 1 shards instead of n - 1.

In: `Module`. Out: `Ring`s. Sources: Wang et al., ASPLOS 2023 (doi 10.1145/3567955.3567959); names of the loops:
openxla/xla, xla/service/spmd/dot_handler.cc; the rest as libtpu 0.0.52 compiles it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from planner.costs.collectives import ALL_GATHER, REDUCE_SCATTER
from planner.verify.groups import Groups, cycles, source_target_pairs
from planner.verify.hlo import Array, Instruction, Module

_KINDS: Mapping[str, str] = MappingProxyType({"ag": ALL_GATHER, "rs": REDUCE_SCATTER})
_BODY = re.compile(r"\bbody=%?([\w.\-]*windowed_dot_general_body_(ag|rs)[\w.\-]*)")
_PERMUTE = re.compile(r" collective-permute(?:-start)?\(")
_LOOP = re.compile(r" while\(")
_PASSING = frozenset({"tuple", "get-tuple-element", "collective-permute-done", "bitcast", "copy"})


@dataclass(frozen=True)
class Ring:
    """A loop and its permutes: what it does, a shard, how many are sent by a device, who are in the ring."""

    loop: Instruction
    kind: str
    shard: Array
    sends: int
    groups: Groups
    permutes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Devices of a ring."""
        return max(map(len, self.groups), default=1)


def windowed_loops(module: Module) -> tuple[Ring, ...]:
    """All rings of a program, in the order of the text."""
    found: list[Ring] = []
    for loop in module.instructions(_LOOP):
        body = _BODY.search(loop.attributes)
        inside = _permutes(module, body[1]) if body is not None else []
        if body is not None and inside:
            around = [p for p in _permutes(module, loop.computation) if _touches(module, p, loop)]
            sends = len(inside) * (module.loops.get(body[1], 1) or 1) + len(around)
            found.append(Ring(loop, _KINDS[body[2]], inside[0].parts[0][0], sends,
                              cycles(source_target_pairs(inside[0].attributes)),
                              tuple(p.name for p in (*inside, *around))))
    return tuple(found)


def _permutes(module: Module, computation: str) -> list[Instruction]:
    return [i for i in module.instructions(_PERMUTE) if i.computation == computation]


def _touches(module: Module, permute: Instruction, loop: Instruction) -> bool:
    """Whether a permute feeds the loop or reads from it, through nothing but tuples and copies."""
    return loop.name in _sources(module, permute) or permute.name in _sources(module, loop)


def _sources(module: Module, at: Instruction) -> Iterator[str]:
    waiting, seen = list(at.operands), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            yield name
            found = module.instruction(at.computation, name)
            if found is not None and found.opcode in _PASSING:
                waiting += found.operands
