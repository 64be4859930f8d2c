"""The programs that a search looks at, one per number of microbatches: few are traced, the others foreseen.

Two programs whose microbatches are of different size tell those of all other sizes (`scaled.py`), and what was made
ready of them is mostly theirs as well. The program of the plan is traced in the end: a search is only ever followed by
what was traced, and if that is not what was foreseen, nothing is foreseen any more.

In: how to trace. Out: `Prepared`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from planner.core.fingerprint import named
from planner.core.graph import Graph, Program
from planner.core.hardware import Device
from planner.errors import RewriteError
from planner.prepared import Prepared, prepare, prepared_like
from planner.program_index import RuleTable
from planner.scaled import Sizes, same, scaled

KEPT_OPERATORS = 1 << 20
"""Of programs that were foreseen and are kept, beyond the last two. [chosen: 400 MB; all of those that a search looks
at, up to some 500 layers]"""


@dataclass
class Programs:
    """Programs of one model, as one search asks for them.

    Attributes:
      trace: microbatches, and the update graph if it was traced before -> the program.
      batch_size: samples in a batch.
      device: what selected tensors are recomputed on.
      foresees: whether programs may be foreseen.
      most_operators: of programs that were foreseen and are kept.
      traced: those that were traced and made ready, by microbatches; `ready`: the last that were foreseen; `named`:
        those with a fingerprint.
    """

    trace: Callable[[int, Graph | None], Program]
    batch_size: int
    device: Device
    foresees: bool = True
    most_operators: int = KEPT_OPERATORS
    traced: dict[int, Prepared] = field(default_factory=dict[int, Prepared])
    ready: dict[int, Prepared] = field(default_factory=dict[int, Prepared])
    named: dict[int, Program] = field(default_factory=dict[int, Program])
    _update: Graph | None = None  # the same for every number of microbatches
    _like: dict[int, tuple[Prepared, Prepared]] = field(default_factory=dict[int, tuple[Prepared, Prepared]])

    def program(self, microbatches: int) -> Program:
        """The program of that many microbatches, traced if there is no other way."""
        known = self.traced.get(microbatches) or self.ready.get(microbatches)
        if known is not None:
            return known.program
        return self._foreseen(microbatches) or self._trace(microbatches)

    def prepared(self, program: Program) -> Prepared:
        """A program made ready."""
        microbatches = program.microbatches
        if microbatches in self.traced:
            return self.traced[microbatches]
        if microbatches in self._like:
            if microbatches not in self.ready:
                self.ready[microbatches] = prepared_like(*self._like[microbatches], program, self.device)
                self._leave_out_oldest()
            return self.ready[microbatches]
        self.traced[microbatches] = prepare(program, self.device)
        return self.traced[microbatches]

    def forget(self) -> None:
        """Foresee nothing any more, nor use what was; what was traced stays."""
        self.foresees = False
        self.ready.clear()
        self._like.clear()

    def confirmed(self, prepared: Prepared) -> Prepared | None:
        """The same, of a traced program with its fingerprint; None if that is not what was foreseen."""
        index, program = prepared.index, prepared.program
        if program.microbatches in self.traced:
            return replace(prepared, index=replace(index, program=self._named(program)))
        if program.microbatches not in self.named:
            try:
                traced = self._trace(program.microbatches)
            except RewriteError:  # foreseen from microbatches of other sizes, to which the rewrites apply
                return None
            if not same(program, traced):
                return None
            program = self._named(traced)
        program = self.named[program.microbatches]
        return replace(prepared, index=replace(index, program=program, rules=RuleTable(program.micro)))

    def _named(self, program: Program) -> Program:
        """A traced program with its fingerprint."""
        if program.microbatches not in self.named:
            self.named[program.microbatches] = program if program.fingerprint else named(program)
        return self.named[program.microbatches]

    def _trace(self, microbatches: int) -> Program:
        program = self.trace(microbatches, self._update)
        self._update = program.update
        return program

    def _leave_out_oldest(self) -> None:
        """Of programs that were foreseen: they can be again."""
        while len(self.ready) > 2 and sum(len(p.program.micro.ops) for p in self.ready.values()) > self.most_operators:
            del self.ready[next(iter(self.ready))]

    def _foreseen(self, microbatches: int) -> Program | None:
        """From the two traced programs whose microbatches are closest in size."""
        wanted = self.batch_size // microbatches
        sizes = sorted(self.traced, key=lambda m: (abs(m / microbatches + microbatches / m), m))
        for near, far in ((a, b) for at, b in enumerate(sizes) for a in sizes[:at]) if self.foresees else ():
            known = self.traced[near], self.traced[far]
            found = scaled(known[0].program, known[1].program,
                           Sizes(self.batch_size // near, self.batch_size // far, wanted), microbatches)
            if found is not None:
                self._like[microbatches] = known
                return found
        return None
