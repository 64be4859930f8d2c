"""JAX functions to graphs: tracing, differentiation, the update, and the way back to the user's pytrees."""

from planner.trace.jaxpr import trace_graph as trace_graph
from planner.trace.params import join_leaves as join_leaves
from planner.trace.params import split_leaves as split_leaves
from planner.trace.program import ProgramTrees as ProgramTrees
from planner.trace.program import join_params as join_params
from planner.trace.program import micro_batch as micro_batch
from planner.trace.program import optimizer_init_graph as optimizer_init_graph
from planner.trace.program import program_trees as program_trees
from planner.trace.program import split_params as split_params
from planner.trace.program import trace_program as trace_program
from planner.trace.program import trace_unnamed as trace_unnamed
