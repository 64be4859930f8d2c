"""Every program of a plan, lowered from shapes alone and compiled in the order that a step runs them.

No array is made, so the devices need not be able to run: those of a topology that is not there will do. What a program
gives lies as the compiler chose where the plan leaves it open, and the next program is compiled for that. In: a built
step, and who is told of progress. Out: `Compilation`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax

from planner.core.graph import Role
from planner.core.plan import DEVICE, PlanRecord
from planner.emit.meshes import sharding
from planner.emit.update_specs import visiting_bytes
from planner.runtime.compile import Built
from planner.runtime.pipeline import PipelineParts, PipelineStep
from planner.runtime.placement import abstract_state
from planner.runtime.single import SingleStep
from planner.runtime.staged import StagedFunction
from planner.runtime.state import RunState
from planner.schedules import Kind
from planner.trace.dtypes import dtype_of
from planner.verify.compiled import CompiledProgram, compile_program
from planner.verify.footprint import Holdings, of_update, peak_of_rank
from planner.verify.report import ProgramRow

Progress = Callable[[str, float], None]
"""Told what is being compiled, and the share that is done."""


@dataclass(frozen=True)
class Compilation:
    """All programs of a plan, and per stage the most bytes of a device that are in use during a step."""

    programs: tuple[CompiledProgram, ...]
    peak_bytes: tuple[int, ...]


def compile_all(record: PlanRecord, built: Built, model: Any, progress: Progress) -> Compilation:
    """Compile a plan's programs for the devices that it was built for.

    Raises:
      VerifyError: a program does not compile.
    """
    if isinstance(built.step, PipelineStep):
        return _Pipeline(record, built, built.step.parts, progress).compile()
    progress("step", 0.0)
    assert isinstance(built.step, SingleStep)
    state = abstract_state(built.program, built.placed)
    program, _ = compile_program(built.step.lower(state, model.batch), 0, "step", 1, len(record.stages[0].devices))
    if built.step.update is None:
        return Compilation((program,), (program.row.total_bytes,))
    return _with_update(record, built, state, program, built.step.update)


def _with_update(record: PlanRecord, built: Built, state: RunState, first: CompiledProgram, update: StagedFunction
                 ) -> Compilation:
    """A step of one stage whose update comes after it: what lies beside the first program is optimizer state, beside
    the update all that the first has and gives."""
    programs, size = [first], len(record.stages[0].devices)

    def compiled(lowered: Any, stage: int) -> Any:
        program, made = compile_program(lowered, stage, "update", 1, size)
        programs.append(program)
        return made

    compile_update(update, compiled)
    opt = sum(_shard_bytes(x) for x, p in zip(state.opt_leaves, built.placed.opt_state, strict=True)
              if p.memory == DEVICE)
    fixed = opt + sum(_shard_bytes(x) for x in (*state.param_leaves, *state.state_leaves))
    after = fixed + first.row.output_bytes - first.row.alias_bytes + of_update([p.row for p in programs[1:]])[0] \
        + visiting_bytes(record, update.staged.graph, 0)
    return Compilation(tuple(programs), (max(first.row.total_bytes + opt, after),))


def compile_update(update: StagedFunction, compiled: Callable[[Any, int], Any]) -> None:
    """Lower the rounds of a weight update in order; `compiled(lowered, stage)` gives the shardings of what one
    makes."""
    values, lies = update.staged.graph.values, dict[tuple[int, int], Any]()
    for code, fn in update.rounds:
        given = [jax.ShapeDtypeStruct(values[v].shape, dtype_of(values[v].dtype),
                                      sharding=update.arrival(v, code.stage) or lies[v, code.stage])
                 for v in code.reads]
        made = compiled(fn.lower(*given), code.stage)
        lies |= {(v, code.stage): where for v, where in zip(code.makes, made, strict=True)}


@dataclass
class _Pipeline:
    """The compilation of a pipeline under way. `lies`: (stage, value) -> sharding of what a program of it made."""

    record: PlanRecord
    built: Built
    parts: PipelineParts
    progress: Progress
    programs: list[CompiledProgram] = field(default_factory=list)
    lies: dict[tuple[int, int], Any] = field(default_factory=dict)

    def compile(self) -> Compilation:
        """Stage by stage; then the update, whose rounds may wait for other stages."""
        holdings = [self._stage(s.index) for s in self.record.stages]
        if self.parts.update is not None:
            self._update()
        layout, named = self.record.layout, [self._by_name(s.index) for s in self.record.stages]
        peaks = [peak_of_rank(self.record, rank, holdings, named) for rank in range(layout.ranks)]
        return Compilation(tuple(self.programs), tuple(peaks[rank] for rank in layout.rank_of))

    def _by_name(self, stage: int) -> Mapping[str, Sequence[ProgramRow]]:
        found: dict[str, list[ProgramRow]] = {}
        for p in self.programs:
            if p.stage == stage:
                found.setdefault(p.row.name, []).append(p.row)
        return found

    def _stage(self, stage: int) -> Holdings:
        functions, microbatches = self.parts.stages[stage], self.record.microbatches
        for kind, code in functions.codes.items():
            if kind is not functions.summing and code.makes:
                lowered = functions.programs[kind].lower(*(self._reads(stage, v) for v in code.reads))
                made = self._compile(lowered, stage, kind, microbatches)
                self.lies |= {(stage, v): where for v, where in zip(code.makes, made, strict=True)}
        if functions.summing is not None:
            zeros = functions.zeros.lower()
            sums = self._compile(zeros, stage, "zeros", 1)
            given = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for x, where in
                          zip(zeros.out_info, sums, strict=True))
            reads = (self._reads(stage, v) for v in functions.codes[functions.summing].reads)
            self._compile(functions.programs[functions.summing].lower(given, *reads), stage, functions.summing,
                          microbatches)
            self._compile(functions.lowered_finish(given), stage, "finish", 1)
        return self._holdings(stage)

    def _update(self) -> None:
        assert self.parts.update is not None
        compile_update(self.parts.update, lambda lowered, stage: self._compile(lowered, stage, "update", 1))

    def _compile(self, lowered: Any, stage: int, name: str, times: int) -> Any:
        each = len(self.parts.code.kinds) + 2 if self.record.kind == "train" else 1
        rounds = len(self.parts.update.rounds) if self.parts.update is not None else 0
        self.progress(f"stage {stage}, {name}", len(self.programs) / (each * len(self.record.stages) + rounds))
        program, made = compile_program(lowered, stage, name, times, len(self.record.stages[stage].devices))
        self.programs.append(program)
        return made

    def _reads(self, stage: int, value: int) -> jax.ShapeDtypeStruct:
        typed = self.built.given.graph.values[value]
        where = self.lies.get((stage, value)) or sharding(self.built.placed.meshes[stage],
                                                          self.parts.code.spec(value, stage))
        return jax.ShapeDtypeStruct(typed.shape, dtype_of(typed.dtype), sharding=where)

    def _lies_here(self, stage: int, value: int, homes: Mapping[int, int]) -> bool:
        """Whether a parameter is there already as this stage reads it: its home has the same devices."""
        home, placed = homes.get(value), self.built.placed
        if home is None or self.record.layout.rank_of[home] != self.record.layout.rank_of[stage]:
            return False
        rank = len(self.built.given.graph.values[value].shape)
        there, here = (sharding(placed.meshes[s], self.parts.code.spec(value, s)) for s in (home, stage))
        return there.is_equivalent_to(here, rank)

    def _bytes(self, stage: int, values: Sequence[int]) -> int:
        return sum(_shard_bytes(self._reads(stage, v)) for v in values)

    def _holdings(self, stage: int) -> Holdings:
        code, functions = self.parts.code, self.parts.stages[stage]
        state = abstract_state(self.built.program, self.built.placed)
        leaves = [*zip(state.param_leaves, self.built.placed.params, strict=True),
                  *((x, p) for x, p in zip(state.opt_leaves, self.built.placed.opt_state, strict=True)
                    if p.memory == DEVICE)]
        homes = {p.value: p.home for p in self.record.params}
        always = {v for role in (Role.PARAM, Role.CONST) for v in code.reads_on(stage, role)}
        batch = set(code.reads_on(stage, Role.BATCH))
        known = set[int]()  # what is there of a microbatch: come from other stages, or made here
        arrives, kept = dict[Kind, int](), dict[Kind, int]()
        for kind, task in functions.codes.items():
            come = [v for v in task.reads if v not in always | batch | known]
            known |= {*come, *task.makes}
            arrives[kind] = self._bytes(stage, come)
            kept[kind] = self._bytes(stage, sorted(code.read_after(stage, kind) & known))
        return Holdings(
            fixed_bytes=sum(_shard_bytes(x) for x, p in leaves if p.home == stage)
            + self._bytes(stage, [v for v in always if homes.get(v) != stage and not self._lies_here(stage, v, homes)]),
            batch_bytes=self._bytes(stage, sorted(batch)), arrives_bytes=arrives, kept_bytes=kept,
            waiting_bytes=self._bytes(stage, sorted(self.parts.away[stage] & code.read_after(stage, Kind.FORWARD))),
            visiting_bytes=_visiting(self.record, self.parts.update, stage))


def _visiting(record: PlanRecord, update: StagedFunction | None, stage: int) -> int:
    return 0 if update is None else visiting_bytes(record, update.staged.graph, stage)


def _shard_bytes(x: jax.ShapeDtypeStruct) -> int:
    assert x.sharding is not None
    return prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
