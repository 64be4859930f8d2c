"""The collectives of a compiled program: kind, bytes, who takes part, how often they run, and whose they are.

Bytes are counted as `costs/collectives.py` counts them. Where the compiler made one of several, each array is an entry:
plans foresee tensors. A reduce-scatter that is spelled as a fused all-reduce and slice (TPU) is one, and so is a loop
that passes shards around a ring while it multiplies them (`windowed.py`).

In: `Module`. Out: `CompiledCollective`s.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from planner.costs.collectives import ALL_REDUCE, ALL_TO_ALL, KINDS, PERMUTE, REDUCE_SCATTER
from planner.verify.groups import Groups, axes_of_groups, axes_of_pairs, replica_groups, source_target_pairs
from planner.verify.hlo import Array, Instruction, Module
from planner.verify.windowed import Ring, windowed_loops

_WANTED = re.compile(rf" (?:ragged-)?(?:{'|'.join(KINDS)})(?:-start)?\(")
_JOINED = re.compile(r"^(.*?)\(([^()]*(?:\([^()]*\)[^()]*)*)\)$")
_FUSED_SCATTER = "all-reduce-scatter"
_SEEN_THROUGH = frozenset({"bitcast", "get-tuple-element", "copy", "convert", "transpose", "reshape", "fusion",
                           "copy-done", "copy-start", "dot", "convolution", "slice", "dynamic-slice"})


@dataclass(frozen=True, slots=True)
class CompiledCollective:
    """One array of one collective of a program.

    Attributes:
      instruction: its name in the text; arrays of one instruction share it.
      kind: as in `planner.costs.collectives`.
      array: what it gives on one device.
      bytes: of the whole tensor along the group.
      moved: what is really moved, counted in the same way: more where the compiler's form of it moves more.
      groups: partition numbers; (source, target) pairs for a permute.
      times: how often a run executes it; a loop of unknown length counts once.
      in_loop: whether it is in a loop.
      op_name: the scopes that it was traced in, or that what it reads was.
    """

    instruction: str
    kind: str
    array: Array
    bytes: int
    moved: int
    groups: Groups
    times: int
    in_loop: bool
    op_name: str

    @property
    def group(self) -> int:
        """Devices that take part with one another."""
        return 2 if self.kind == PERMUTE else max(map(len, self.groups), default=1)

    def axes(self, mesh_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The mesh axes it runs along; None if its groups are not those of any axes."""
        found = axes_of_pairs if self.kind == PERMUTE else axes_of_groups
        return found(self.groups, mesh_shape)


def collectives(module: Module, devices: int) -> tuple[CompiledCollective, ...]:
    """All collectives of more than one device, in the order of the text.

    Args:
      module: the program.
      devices: that it runs on; its groups where it names none.
    """
    rings = windowed_loops(module)
    passed = {name for ring in rings for name in ring.permutes}
    single = (c for i in module.instructions(_WANTED) if not _goes_on(module, i) and i.name not in passed
              for c in _of(module, i, devices))
    return tuple(c for c in (*(_ring(module, r) for r in rings), *single) if c.group > 1)


def _ring(module: Module, ring: Ring) -> CompiledCollective:
    """A ring's sends, counted as those of the collective: of n devices, n - 1 sends of a shard each."""
    whole, devices = ring.shard.bytes * ring.size, ring.size
    return CompiledCollective(
        ring.loop.name, ring.kind, ring.shard, whole, whole * ring.sends // max(devices - 1, 1), ring.groups,
        module.runs[ring.loop.computation], ring.loop.computation in module.in_loop, _op_name(module, ring.loop))


def _goes_on(module: Module, at: Instruction) -> bool:
    """Whether it is one that another instruction has started: TPU's asynchronous collectives appear in the fusion that
    starts them, in those that run beside them, and in the one that waits for them."""
    _, caller = module.callers.get(at.computation, ("", ""))
    return at.computation.startswith("async_collective_fusion") or caller.startswith("async-collective-done")


def _of(module: Module, at: Instruction, devices: int) -> Iterator[CompiledCollective]:
    kind = at.opcode.removesuffix("-start").removeprefix("ragged-")
    if kind == ALL_REDUCE and at.computation.startswith(_FUSED_SCATTER):
        kind = REDUCE_SCATTER
        sizes_scattered = False
    else:
        sizes_scattered = kind == REDUCE_SCATTER
    pairs = kind == PERMUTE
    groups = source_target_pairs(at.attributes) if pairs else replica_groups(at.attributes, devices)
    group = max(map(len, groups), default=1)
    arrays = _results(at, kind)
    if kind == ALL_TO_ALL and len(arrays) == group:  # one array a peer: together the local buffer
        arrays = (Array(arrays[0].dtype, (group, *arrays[0].shape)),)
    times, inside = module.runs[at.computation], at.computation in module.in_loop
    names = _names(_op_name(module, at), len(arrays))
    for array, name in zip(arrays, names, strict=True):
        size = array.bytes * (group if sizes_scattered or kind == ALL_TO_ALL else 1)
        yield CompiledCollective(at.name, kind, array, size, size, groups, times, inside, name)


def _results(at: Instruction, kind: str) -> tuple[Array, ...]:
    """The arrays that it gives. What starts an asynchronous one also gives back what it reads, in front, and contexts,
    behind; an all-reduce that is started doesn't."""
    if at.opcode.endswith("-start") and kind != ALL_REDUCE and len(at.parts) > 1:
        return at.parts[1]
    return at.arrays


def _op_name(module: Module, at: Instruction) -> str:
    """Its own name, that of the fusion it is in, or the nearest of what it reads."""
    here: Instruction | None = at
    while here is not None and not here.op_name:
        caller = module.callers.get(here.computation) if here.computation != module.entry else None
        if caller is None or here.computation in module.loops:
            break
        here = module.instruction(*caller)
    if here is not None and here.op_name:
        return here.op_name
    waiting, seen = list(at.operands), set[str]()
    while waiting:
        name = waiting.pop(0)
        found = module.instruction(at.computation, name) if name not in seen else None
        seen.add(name)
        if found is not None and found.op_name:
            return found.op_name
        if found is not None and found.opcode in _SEEN_THROUGH:
            waiting += found.operands
    return ""


def _names(op_name: str, count: int) -> list[str]:
    """The name of each array: joined instructions have joined names, `"a/(b:c)"`."""
    joined = _JOINED.match(op_name)
    if joined is not None and count > 1:
        parts = joined[2].split(":")
        if len(parts) == count:
            return [joined[1] + part for part in parts]
    return [op_name] * count
