"""JAX functions to graphs: tracing, differentiation, the update, and the way back to the user's pytrees.

JAX is imported once one of these is asked for: `trace.local_copies` reads graphs alone.
"""

from types import MappingProxyType
from typing import TYPE_CHECKING

from planner.front import lazy

if TYPE_CHECKING:
    from planner.trace.jaxpr import trace_graph as trace_graph
    from planner.trace.params import join_leaves as join_leaves
    from planner.trace.params import split_leaves as split_leaves
    from planner.trace.program import ProgramTrees as ProgramTrees
    from planner.trace.program import join_params as join_params
    from planner.trace.program import micro_batch as micro_batch
    from planner.trace.program import optimizer_init_graph as optimizer_init_graph
    from planner.trace.program import program_of as program_of
    from planner.trace.program import program_trees as program_trees
    from planner.trace.program import split_params as split_params
    from planner.trace.program import trace_program as trace_program
    from planner.trace.program import trace_unnamed as trace_unnamed
    from planner.trace.vjp import ReverseRules as ReverseRules

NAMES = MappingProxyType({
    "trace_graph": "planner.trace.jaxpr",
    **dict.fromkeys(("join_leaves", "split_leaves"), "planner.trace.params"),
    **dict.fromkeys(("ProgramTrees", "join_params", "micro_batch", "optimizer_init_graph", "program_of",
                     "program_trees", "split_params", "trace_program", "trace_unnamed"), "planner.trace.program"),
    "ReverseRules": "planner.trace.vjp",
})
"""Public name -> where it is from: what the block above says, for when it runs."""

__getattr__ = lazy(__name__, NAMES)
