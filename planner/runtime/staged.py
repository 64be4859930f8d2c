"""A graph whose inputs and outputs live on several stages, as one callable: jitted tasks, round after round.

Serves the weight update and the making of the first optimizer state, for one stage or many. Everything is dispatched
without waiting; a value goes to another stage when a task there first reads it.

In: a graph, and the place of each input and output. Out: `StagedFunction`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.sharding import Mesh, NamedSharding

from planner.core.graph import Graph, Operand
from planner.core.programs import UPDATE, program_name
from planner.core.spec import Spec, replicated
from planner.emit.meshes import sharding
from planner.emit.rounds import replaced, rounds
from planner.emit.tasks import Constraints, TaskCode, output_array, task_function
from planner.emit.update_specs import LeafPlace
from planner.runtime.stage_program import stage_program
from planner.runtime.transfer import Transfers


@dataclass(frozen=True)
class StagedGraph:
    """A graph with places.

    Attributes:
      graph: the graph.
      inputs, outputs: place per graph input and output.
      work: value -> sharding that operators work with, where it differs from the place (ZeRO).
      donate: whether old parameters and optimizer state give their memory to the new ones.
    """

    graph: Graph
    inputs: tuple[LeafPlace, ...]
    outputs: tuple[LeafPlace, ...]
    work: Mapping[int, Spec]
    donate: bool


class StagedFunction:
    """Arrays of the graph's inputs -> arrays of its outputs, each at its place."""

    def __init__(self, staged: StagedGraph, meshes: Sequence[Mesh], transfers: Transfers) -> None:
        self._staged, self._meshes, self._transfers = staged, tuple(meshes), transfers
        graph = staged.graph
        self._at = {i.value: place for i, place in zip(graph.inputs, staged.inputs, strict=True)}
        self._out = [sharding(self._meshes[p.home], p.spec) for p in staged.outputs]
        homes = {v: place.home for v, place in self._at.items()}
        codes = rounds(graph, homes, [p.home for p in staged.outputs])
        pairs = [replaced(graph, codes, code) if staged.donate else () for code in codes]
        self._codes = tuple(_paired(code, own) for code, own in zip(codes, pairs, strict=True))
        self._made_at = {v: code.stage for code in self._codes for v in code.makes}
        self._lie = self._lying()
        self._fns = [self._jitted(n, code, own) for n, (code, own) in enumerate(zip(self._codes, pairs, strict=True))]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run every round; returns without waiting."""
        graph = self._staged.graph
        held: dict[tuple[int, int], Any] = {(i.value, self._at[i.value].home): x
                                            for i, x in zip(graph.inputs, inputs, strict=True)}
        constants = dict(graph.constants)
        for code, fn in zip(self._codes, self._fns, strict=True):
            made = fn(*(self._fetch(v, code.stage, held, constants) for v in code.reads))
            held |= {(v, code.stage): x for v, x in zip(code.makes, made, strict=True)}
        found = {v: x for (v, stage), x in held.items() if stage == self._home(v)}
        return _each_its_own(graph, [self._end(o.operand, found, where)
                                     for o, where in zip(graph.outputs, self._out, strict=True)])

    @property
    def rounds(self) -> tuple[tuple[TaskCode, Any], ...]:
        """The tasks in the order they run, each with its jitted function."""
        return tuple(zip(self._codes, self._fns, strict=True))

    def arrival(self, value: int, stage: int) -> NamedSharding | None:
        """How a value lies on a stage that reads it; None where a task of that stage makes it."""
        if value in self._made_at and self._made_at[value] == stage:
            return None
        spec = self._at[value].spec if value in self._at and self._at[value].home == stage else \
            replicated(len(self._staged.graph.values[value].shape))
        return sharding(self._meshes[stage], spec)

    def _home(self, value: int) -> int:
        return self._at[value].home if value in self._at else self._made_at[value]

    def _lying(self) -> dict[int, NamedSharding]:
        """How each value lies at home, for those who send it from there; whole where nothing is said of it."""
        found = {v: sharding(self._meshes[p.home], p.spec) for v, p in self._at.items()}
        for v, home in self._made_at.items():
            whole = sharding(self._meshes[home], replicated(len(self._staged.graph.values[v].shape)))
            found[v] = self._wanted(home).get(v, whole)
        return found

    def _end(self, operand: Operand, found: Mapping[int, Any], where: NamedSharding) -> Any:
        if isinstance(operand, int):
            return self._transfers.send([found[operand]], [self._lie[operand]], [where])[0]
        return self._transfers.place([output_array(operand, found)], [where])[0]

    def _fetch(self, value: int, stage: int, held: dict[tuple[int, int], Any], constants: Mapping[int, Any]) -> Any:
        if (value, stage) not in held:
            wanted = self.arrival(value, stage)
            assert wanted is not None
            held[value, stage] = self._transfers.place([constants[value]], [wanted])[0] if value in constants else \
                self._transfers.send([held[value, self._home(value)]], [self._lie[value]], [wanted])[0]
        return held[value, stage]

    def _wanted(self, stage: int) -> dict[int, NamedSharding]:
        """Outputs of the graph that a stage makes or keeps, as they shall lie."""
        return {out.operand: sharding(self._meshes[stage], place.spec)
                for out, place in zip(self._staged.graph.outputs, self._staged.outputs, strict=True)
                if isinstance(out.operand, int) and place.home == stage}

    def _jitted(self, round_: int, code: TaskCode, pairs: Sequence[tuple[int, int]]) -> Any:
        graph, mesh = self._staged.graph, self._meshes[code.stage]
        specs = {v: self._staged.work[v] for v in (*code.reads, *code.makes) if v in self._staged.work}
        wanted = self._wanted(code.stage)
        donated = tuple(sorted(code.reads.index(old) for old, _ in pairs))
        return stage_program(task_function(graph, code, Constraints(mesh, specs)), mesh,
                             program_name(code.stage, UPDATE, round_), donate=donated,
                             out_shardings=tuple(wanted.get(v) for v in code.makes))


def _paired(code: TaskCode, pairs: Sequence[tuple[int, int]]) -> TaskCode:
    """The task with its results in the order of the arguments that they replace: JAX gives a donated place to the next
    result of the same shape, and XLA copies what such a result would overwrite too early."""
    place = {new: code.reads.index(old) for old, new in pairs}
    return replace(code, makes=tuple(sorted(code.makes, key=lambda v: place.get(v, len(code.reads)))))


def _each_its_own(graph: Graph, arrays: Sequence[Any]) -> list[Any]:
    """No buffer twice: whoever donates them all needs one for each (equal moments start as one value of zeros)."""
    seen: set[int] = set()
    found = []
    for out, x in zip(graph.outputs, arrays, strict=True):
        again = isinstance(out.operand, int) and out.operand in seen
        found.append(x.copy() if again else x)
        seen.update({out.operand} if isinstance(out.operand, int) else ())
    return found
