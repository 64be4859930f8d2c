"""A plan's program as it is emitted, rewritten and with the sharding of every value, ready to be lowered.

In: a `PlanRecord` and its `Program`. Out: `Emitted`, which gives a `Lowering` per stage.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from planner.core.graph import Phase, Program, Role
from planner.core.plan import PlanRecord
from planner.core.spec import Spec, replicated
from planner.costs.memory import Live
from planner.emit.annotated import Annotated
from planner.emit.cutting import TaskCode
from planner.emit.deferred import with_deferred_gradients
from planner.emit.inferred import Inferred, infer
from planner.emit.rewritten import before_deferral
from planner.emit.rounds import placed_rounds
from planner.emit.update_specs import LeafPlace, opt_state_places, update_places, work_specs
from planner.footprint.compilers import compiler_of
from planner.footprint.nodes import Lowering
from planner.footprint.products import in_common_counts


class Holds(StrEnum):
    """What a piece of memory is for."""

    GRADS = "grads"
    ACTIVATIONS = "activations"
    TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class Need:
    """What a call of a function takes beside its arguments: while it runs, for good, and the operator at its peak."""

    temp: int
    made: int
    op: int = -1


@dataclass(frozen=True)
class Function:
    """A compiled function on one device.

    Attributes:
      held: what it holds beside its arguments, over its own time, and `kinds`, what for.
      ops: operator that runs at each time (-1: none of the plan's own).
      out_bytes: results that don't lie in an argument's place.
      temp_bytes: of an allocation for `held`.
    """

    held: tuple[Live, ...]
    kinds: tuple[Holds, ...]
    ops: tuple[int, ...]
    out_bytes: int
    temp_bytes: int


class Emitted:
    """A plan's program as it is emitted, with the sharding of every value. `known`: what was found out of functions
    that have no part in the weight update, by name and stage; `alike`: functions by their nodes, operators numbered by
    first appearance."""

    def __init__(self, record: PlanRecord, program: Program) -> None:
        self.record, self.program = record, program
        before = before_deferral(record, program)
        self.inferred = infer(before)
        self.given, _ = with_deferred_gradients(record, before, self.inferred)
        self.known: dict[tuple[str, int], Need] = {}
        self.alike: dict[Hashable, Function] = {}

    def told(self, record: PlanRecord) -> "Emitted":
        """The same under a plan that differs in what lies in host memory alone; programs of a plan of one stage are
        emitted anew if activations do."""
        if len(record.stages) == 1 and record.stages[0].offload != self.record.stages[0].offload:
            return Emitted(record, self.program)
        other = Emitted.__new__(Emitted)
        other.record, other.program, other.inferred, other.given = record, self.program, self.inferred, self.given
        other.known, other.alike = self.known, self.alike
        return other

    @cached_property
    def update_specs(self) -> Mapping[int, Spec]:
        """Value of the update graph -> the sharding that the update works in."""
        return work_specs(self.record, self.program.update) if self.program.update is not None else {}

    @cached_property
    def opt_state_places(self) -> tuple[LeafPlace, ...]:
        """Where the leaves of the optimizer's state lie, in the order of the update's inputs."""
        update = self.program.update
        return opt_state_places(self.record, update, tuple(update.inputs_of(Role.OPT_STATE))) if update else ()

    @cached_property
    def update_codes(self) -> tuple[TaskCode, ...]:
        """The tasks of the weight update, in order."""
        graph = self.program.update
        return placed_rounds(graph, *update_places(self.record, graph)) if graph is not None else ()

    @cached_property
    def read(self) -> tuple[frozenset[int], ...]:
        """The values that the operators of each stage read."""
        found: list[set[int]] = [set() for _ in self.record.stages]
        for stage, op in zip(self.given.stage_of, self.given.graph.ops, strict=True):
            found[stage].update(op.inputs)
        return tuple(frozenset(values) for values in found)

    @cached_property
    def update_inferred(self) -> Inferred:
        """What follows for the update graph, whichever stage runs it."""
        graph = self.program.update
        assert graph is not None
        return infer(Annotated(graph, (0,) * len(graph.ops), (self.update_specs,), {}))[0]

    def kind(self, made: int, read: int) -> Holds:
        """What memory is for that one operator fills and another reads last."""
        ops = self.given.graph.ops
        known = made >= 0 and ops[made].phase is Phase.FORWARD
        return Holds.ACTIVATIONS if known and read >= 0 and ops[read].phase is Phase.BACKWARD else Holds.TRANSIENT

    def is_split(self, value: int) -> bool:
        """Whether a batch input is cut into microbatches (what is not looks the same in every microbatch)."""
        return self.record.microbatches > 1 and bool(self.given.graph.values[value].shape)

    def lowering(self, stage: int) -> Lowering:
        """A lowering of the micro graph on a stage."""
        return lowering(self.given, self.inferred[stage], self._beside, stage, self.record)

    def update_lowering(self, stage: int) -> Lowering:
        """A lowering of the update graph on a stage."""
        graph = self.program.update
        assert graph is not None
        given = Annotated(graph, (stage,) * len(graph.ops), (self.update_specs,) * len(self.record.stages), {})
        return lowering(given, self.update_inferred, self._beside_in_update, stage, self.record)

    @cached_property
    def _beside(self) -> Mapping[tuple[object, ...], int]:
        return in_common_counts(self.given.graph)

    @cached_property
    def _beside_in_update(self) -> Mapping[tuple[object, ...], int]:
        return in_common_counts(self.program.update) if self.program.update is not None else {}


def lowering(given: Annotated, inferred: Inferred, beside: Mapping[tuple[object, ...], int], stage: int,
             record: PlanRecord) -> Lowering:
    """A lowering of an annotated graph on a stage; `beside` as `Lowering` has it."""
    graph, specs, mesh = given.graph, given.specs[stage], record.stages[stage].mesh_shape

    def natural(value: int) -> Spec:
        rank = len(graph.values[value].shape)
        known = inferred.natural.get(value)
        return known if known is not None and len(known) == rank else specs.get(value, replicated(rank))

    def made(n: int) -> list[tuple[Spec, frozenset[int]]]:
        summed = frozenset(a for _, axes in inferred.reduced.get(n, ()) for a in axes)
        found = []
        for r in graph.ops[n].results:
            whole = inferred.natural.get(r)
            as_is = whole is not None and len(whole) == len(graph.values[r].shape)
            found.append((natural(r), summed if as_is else frozenset[int]()))
        return found

    return Lowering(graph, mesh, lambda v: specs.get(v, natural(v)), made, lambda n, k: given.uses.get((n, k)),
                    scatters=not record.cluster.reduce_scatter_as_all_reduce, beside=beside,
                    compiler=compiler_of(record.cluster))
