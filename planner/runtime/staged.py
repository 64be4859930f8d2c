"""A graph whose inputs and outputs live on several stages, as one callable: jitted tasks, round after round.

Serves the weight update and the making of the first optimizer state, for one stage or many. Everything is dispatched
without waiting; a value goes to another stage when a task there first reads it. What lives in the host's memory
visits the devices part by part: while one part is computed, the next is fetched and the last goes back, and no more
than two of them are on the devices. (Compiled as one program, all parts would come at once: libtpu 0.0.52 takes 107.7
MB of temporary memory for 96 MB of moments in 12 arrays.)

In: a graph, and the place of each input and output. Out: `StagedFunction`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from planner.core.graph import Graph, Operand
from planner.core.plan import HOST
from planner.core.programs import UPDATE, program_name
from planner.core.spec import Spec, replicated
from planner.emit.cutting import TaskCode
from planner.emit.meshes import sharding
from planner.emit.rounds import placed_rounds, replaced
from planner.emit.tasks import Constraints, output_array, task_function
from planner.emit.update_specs import LeafPlace
from planner.processes.in_turn import copied
from planner.runtime.host_transfers import UnderWay, moved
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

    @cached_property
    def from_host(self) -> frozenset[int]:
        """Inputs that lie in the host's memory."""
        return frozenset(i.value for i, p in zip(self.graph.inputs, self.inputs, strict=True) if p.memory == HOST)


class StagedFunction:
    """Arrays of the graph's inputs -> arrays of its outputs, each at its place."""

    def __init__(self, staged: StagedGraph, meshes: Sequence[Mesh], transfers: Transfers) -> None:
        self._staged, self._meshes, self._transfers = staged, tuple(meshes), transfers
        graph = staged.graph
        self._at = {i.value: place for i, place in zip(graph.inputs, staged.inputs, strict=True)}
        self._out = [sharding(self._meshes[p.home], p.spec, p.memory) for p in staged.outputs]
        codes = placed_rounds(graph, staged.inputs, staged.outputs)
        pairs = replaced(graph, codes) if staged.donate else [() for _ in codes]
        self._codes = tuple(_paired(code, own) for code, own in zip(codes, pairs, strict=True))
        self._made_at = {v: code.stage for code in self._codes for v in code.makes}
        self._lie = self._lying()
        self._fns = [self._jitted(n, code, own) for n, (code, own) in enumerate(zip(self._codes, pairs, strict=True))]
        self._after = self._fetched_after()
        away = [(n, o.operand) for n, (o, p) in enumerate(zip(graph.outputs, staged.outputs, strict=True))
                if p.memory == HOST and isinstance(o.operand, int)]
        self._to_host = [tuple((n, v) for n, v in away if v in code.makes) for code in self._codes]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run every round; returns without waiting, but for parts that go to the host."""
        return _Run(self, inputs).ends()

    @property
    def staged(self) -> StagedGraph:
        """The graph with its places."""
        return self._staged

    @property
    def rounds(self) -> tuple[tuple[TaskCode, Any], ...]:
        """The tasks in the order they run, each with its jitted function."""
        return tuple(zip(self._codes, self._fns, strict=True))

    def arrival(self, value: int, stage: int) -> NamedSharding | None:
        """How a value lies on the devices of a stage that reads it; None where a task of that stage makes it."""
        if value in self._made_at and self._made_at[value] == stage:
            return None
        spec = self._at[value].spec if value in self._at and self._at[value].home == stage else \
            replicated(len(self._staged.graph.values[value].shape))
        return sharding(self._meshes[stage], spec)

    def home(self, value: int) -> int:
        """The stage that a value comes from."""
        return self._at[value].home if value in self._at else self._made_at[value]

    def to_host(self, task: int) -> tuple[tuple[int, int], ...]:
        """(output, value) for what a task makes that lies in the host's memory."""
        return self._to_host[task]

    def fetched_after(self, task: int) -> tuple[int, ...]:
        """Values to fetch from the host once a task was started: of the next task of the stage that reads such."""
        return self._after.get(task, ())

    def _fetched_after(self) -> dict[int, tuple[int, ...]]:
        last: dict[int, int] = {}
        found: dict[int, tuple[int, ...]] = {}
        for n, code in enumerate(self._codes):
            mine = tuple(v for v in code.reads if v in self._staged.from_host)
            if mine and code.stage in last:
                found[last[code.stage]] = mine
            if mine:
                last[code.stage] = n
        return found

    def sent(self, value: int, array: Any, stage: int) -> Any:
        """A value on its way from its home to another stage that reads it."""
        wanted = self.arrival(value, stage)
        assert wanted is not None
        if value in self._staged.from_host:
            return moved(array, wanted)
        return self._transfers.send([array], [self._lie[value]], [wanted])[0]

    def constant(self, value: int, array: Any, stage: int) -> Any:
        """A constant of the graph on a stage that reads it."""
        wanted = self.arrival(value, stage)
        assert wanted is not None
        return self._transfers.place([array], [wanted])[0]

    def away(self, output: int, array: Any) -> Any:
        """An output's array, from the devices of its place to their host's memory."""
        return moved(array, self._out[output])

    def end(self, output: int, operand: Operand, found: Mapping[int, Any]) -> Any:
        """An output's array at its place; `found` has values at home."""
        where = self._out[output]
        if not isinstance(operand, int):
            return self._transfers.place([output_array(operand, found)], [where])[0]
        if self._staged.outputs[output].memory == HOST:
            return moved(found[operand], where)
        if self._lie[operand] == where:
            return found[operand]
        return self._transfers.send([found[operand]], [self._lie[operand]], [where])[0]

    def _lying(self) -> dict[int, NamedSharding]:
        """How each value lies at home, for those who send it from there; whole where nothing is said of it."""
        found = {v: sharding(self._meshes[p.home], p.spec) for v, p in self._at.items()}
        for v, home in self._made_at.items():
            whole = sharding(self._meshes[home], replicated(len(self._staged.graph.values[v].shape)))
            found[v] = self._wanted(home).get(v, whole)
        return found

    def _wanted(self, stage: int) -> dict[int, NamedSharding]:
        """Outputs of the graph that a stage makes or keeps, as its programs give them."""
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


class _Run:
    """One call under way: what lies on every stage, by (value, stage), and outputs that went to the host."""

    def __init__(self, function: StagedFunction, inputs: Sequence[Any]) -> None:
        self._function, self._staged = function, function.staged
        graph = self._staged.graph
        self._constants = dict(graph.constants)
        given = {i.value: x for i, x in zip(graph.inputs, inputs, strict=True)}
        self._host = {v: given[v] for v in self._staged.from_host}
        self._held = {(v, function.home(v)): x for v, x in given.items() if v not in self._host}
        self._returned = {o.operand for o in graph.outputs if isinstance(o.operand, int)}
        self._left = Counter(v for code, _ in function.rounds for v in code.reads)
        self._gone: dict[int, Any] = {}  # output -> its array in the host's memory
        self._under_way: dict[int, UnderWay] = {}

    def ends(self) -> list[Any]:
        """Run, and give the outputs."""
        function, graph = self._function, self._staged.graph
        for n, (code, fn) in enumerate(function.rounds):
            self._settle(code)
            made = fn(*(self._fetch(v, code.stage) for v in code.reads))
            self._held |= {(v, code.stage): x for v, x in zip(code.makes, made, strict=True)}
            self._left.subtract(code.reads)
            self._send_home(code, function.to_host(n))
            for v in function.fetched_after(n):
                self._fetch(v, code.stage)
        found = self._host | {v: x for (v, stage), x in self._held.items() if stage == function.home(v)}
        ends = [self._gone[n] if n in self._gone else function.end(n, o.operand, found)
                for n, o in enumerate(graph.outputs)]
        return _each_its_own(graph, ends)

    def _settle(self, code: TaskCode) -> None:
        """Before the first part comes from the host, wait for what the update starts from: JAX would make room for it
        beside all that the backward still holds (on an H200, 0.7 GB of 1.5 that were to be saved)."""
        if code.stage not in self._under_way and any(v in self._host for v in code.reads):
            self._under_way[code.stage] = UnderWay()
            jax.block_until_ready([self._fetch(v, code.stage) for v in code.reads if v not in self._host])

    def _fetch(self, value: int, stage: int) -> Any:
        if (value, stage) not in self._held:
            function = self._function
            if value in self._constants:
                self._held[value, stage] = function.constant(value, self._constants[value], stage)
            else:
                source = self._host[value] if value in self._host else self._held[value, function.home(value)]
                self._held[value, stage] = function.sent(value, source, stage)
        return self._held[value, stage]

    def _send_home(self, code: TaskCode, outs: Sequence[tuple[int, int]]) -> None:
        """What a task made for the host's memory goes there; what lay there before, and nobody reads any more, is let
        go, here and there. Of what is on its way, all but the last part is waited for."""
        for v in [v for v in code.reads if v in self._host and v not in self._returned and not self._left[v]]:
            if self._staged.donate:
                self._host[v].delete()
            del self._host[v], self._held[v, code.stage]
        if not outs:
            return
        for n, v in outs:
            self._gone[n] = self._function.away(n, self._held[v, code.stage])
        for v in {v for _, v in outs if not self._left[v]}:
            del self._held[v, code.stage]
        under_way = self._under_way.setdefault(code.stage, UnderWay())
        under_way.add([self._gone[n] for n, _ in outs])
        under_way.settle(1)


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
        found.append(copied(x) if again else x)
        seen.update({out.operand} if isinstance(out.operand, int) else ())
    return found
