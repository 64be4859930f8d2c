"""A program with rewrites applied to its forward graph: the backward is that of the rewritten function.

In: a `Model` or a `Program`, `Rewriting`s. Out: a `Program`.
"""

from collections.abc import Sequence

from planner.core.fingerprint import named
from planner.core.graph import Graph, Program
from planner.core.rewriting import Rewriting
from planner.model import Model
from planner.rewriting.apply import apply
from planner.trace import program_of, trace_program, trace_unnamed


def rewritten(program: Program, rewritings: Sequence[Rewriting]) -> Program:
    """The program after the rewrites, without a fingerprint; itself if there are none.

    Raises:
      RewriteError, UnknownNameError: a rewrite does not apply.
    """
    if not rewritings:
        return program
    forward = apply(program.forward, rewritings)
    return program_of(program.kind, forward, program.microbatches, program.update)


def traced_with(model: Model, microbatches: int, rewritings: Sequence[Rewriting], update: Graph | None = None
                ) -> Program:
    """A model's program with the rewrites of a plan, with its fingerprint.

    Raises:
      as `trace_program`; RewriteError, UnknownNameError: a rewrite does not apply to the model.
    """
    if not rewritings:
        return trace_program(model, microbatches, update)
    return named(rewritten(trace_unnamed(model, microbatches, update), rewritings))
