"""A `Model` as a `Program`: the graphs of one step, for one number of microbatches.

Flows in: a `Model`. Flows out: `Program`, and `ProgramTrees` to get back from flat outputs to the user's pytrees.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax

from planner.core.fingerprint import named
from planner.core.graph import Graph, Op, Program, Role
from planner.errors import BatchError, ModelError, TraceError
from planner.model import Model, leaves_with_paths
from planner.trace.batched_lookups import with_batched_lookups
from planner.trace.differentiate import differentiate
from planner.trace.dtypes import is_inexact
from planner.trace.jaxpr import abstract_leaf, abstract_tree, name_of, trace_graph
from planner.trace.local_copies import with_local_copies
from planner.trace.params import join_leaves, split_leaves
from planner.trace.rows import split_rows
from planner.trace.sink import sink
from planner.trace.update import optimizer_init_graph as init_graph
from planner.trace.update import update_graph
from planner.trace.vjp import ReverseRules


@dataclass(frozen=True)
class ProgramTrees:
    """Pytree structures of what a step takes and gives. A part that the model lacks is the structure of `None`.

    `params`, `state`, `opt_state`: as the user (or the optimizer) made them; join flat leaves with
    `planner.trace.join_leaves`. `aux`: the metrics, or the outputs of an inference function.
    """

    params: Any
    state: Any
    opt_state: Any
    aux: Any


def trace_program(model: Model, microbatches: int = 1, update: Graph | None = None) -> Program:
    """Trace a model to the graphs of one training step, inference or user-written step.

    Args:
      model: the model; its arrays may be abstract, and are not read.
      microbatches: into how many the batch is split (1 for a user-written step).
      update: the update graph of the same model traced for another number of microbatches, which is the same one: it is
        taken over instead of traced again.

    Raises:
      BatchError: if the batch does not divide.
      TraceError: if the function cannot be traced or differentiated, or returns what `Model` does not allow.
      ModelError: if the model's parts do not fit together.
    """
    return named(trace_unnamed(model, microbatches, update))


def trace_unnamed(model: Model, microbatches: int = 1, update: Graph | None = None) -> Program:
    """As `trace_program`, without a fingerprint, which takes a sixth of the time: for programs that are only looked
    at."""
    with without_collector():
        return _program(model, microbatches, update)


@contextmanager
def without_collector() -> Iterator[None]:
    """While tracing: what it makes stays, and looking for garbage among it takes a fifth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _program(model: Model, microbatches: int, update: Graph | None) -> Program:
    forward = with_local_copies(sink(with_batched_lookups(split_rows(_forward(model, microbatches)))))
    if model.kind != "train":
        return program_of(model.kind, forward, microbatches, None)
    _check_trainable(model, forward)
    params = tuple(forward.inputs_of(Role.PARAM))
    if update is None or [(i.path, i.row) for i in update.inputs_of(Role.PARAM)] != [(i.path, i.row) for i in params]:
        update = update_graph(model, params)
    return program_of("train", forward, microbatches, update)


def program_of(kind: str, forward: Graph, microbatches: int, update: Graph | None, rules: ReverseRules | None = None
               ) -> Program:
    """The program of a forward graph, differentiated where its kind is `"train"` (`rules` as there); without a
    fingerprint."""
    forward = _with_own_origins(forward)
    micro = differentiate(forward, rules) if kind == "train" else forward
    return Program(kind, forward, micro, update, microbatches, "")


def program_trees(model: Model, microbatches: int = 1) -> ProgramTrees:
    """The pytree structures of a model's step (traces the model's function once more)."""
    structure = jax.tree_util.tree_structure
    args, _ = _arguments(model, microbatches)
    outputs = jax.eval_shape(_normalised(model), *(abstract_tree(a, "leaf") for a in args))
    parts = dict(zip(_out_roles(model), outputs, strict=False))
    opt_state = None if model.optimizer is None else jax.eval_shape(
        model.optimizer.init, abstract_tree(model.params, "parameter"))
    return ProgramTrees(structure(model.params), structure(model.state), structure(opt_state),
                        structure(parts.get(Role.AUX)))


def optimizer_init_graph(model: Model, program: Program) -> Graph:
    """The graph that makes the first optimizer state: PARAM inputs as in `program`, OPT_STATE outputs as its inputs."""
    return init_graph(model, tuple(program.forward.inputs_of(Role.PARAM)))


def split_params(program: Program, params: Any) -> list[Any]:
    """A parameter pytree as one array per PARAM input, in order; stacked leaves cut into rows."""
    return split_leaves(params, tuple(program.forward.inputs_of(Role.PARAM)))


def join_params(program: Program, leaves: Any, treedef: Any) -> Any:
    """The inverse of `split_params`; `treedef` is `program_trees(model).params`."""
    return join_leaves(treedef, tuple(program.forward.inputs_of(Role.PARAM)), leaves)


def micro_batch(model: Model, microbatches: int) -> Any:
    """The abstract batch of one microbatch.

    Raises:
      BatchError: if the batch does not divide.
    """
    if microbatches < 1:
        raise BatchError(f"{microbatches} microbatches", "give a positive number")
    if model.kind == "step" and microbatches != 1:
        raise BatchError(f"{microbatches} microbatches for a train step written by the user",
                         "such a step is planned with one microbatch; give a loss and an optimizer to have it split")
    if microbatches > 1 and model.batch_size % microbatches:
        raise BatchError(f"a batch of {model.batch_size} does not divide into {microbatches} microbatches",
                         f"use a divisor of {model.batch_size}")

    def part(path: str, leaf: Any) -> Any:
        struct = abstract_leaf(leaf, f"batch leaf {path!r}")
        if microbatches == 1 or path in model.unbatched or not struct.shape:
            return struct
        return jax.ShapeDtypeStruct((struct.shape[0] // microbatches, *struct.shape[1:]), struct.dtype)

    leaves = [part(path, leaf) for path, leaf in leaves_with_paths(model.batch)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(model.batch), leaves)


def _arguments(model: Model, microbatches: int) -> tuple[tuple[Any, ...], tuple[Role, ...]]:
    batch = micro_batch(model, microbatches)
    if model.kind == "step":
        return (model.state, batch), (Role.STATE, Role.BATCH)
    if model.state is None:
        return (model.params, batch), (Role.PARAM, Role.BATCH)
    return (model.params, model.state, batch), (Role.PARAM, Role.STATE, Role.BATCH)


def _normalised(model: Model) -> Callable[..., tuple[Any, ...]]:
    """The user's function, checked, and returning a tuple of parts in the order of `_out_roles`."""

    def wrapped(*args: Any) -> tuple[Any, ...]:
        out = model.fn(*args)
        if model.kind == "inference" and model.state is None:
            return (out,)
        parts = out if isinstance(out, tuple) else (out,)
        if model.kind == "train":
            _check_loss(model, parts)
        if model.state is not None:
            _check_state(model, parts)
        return parts

    wrapped.__name__ = name_of(model.fn)  # errors speak of the user's function
    return wrapped


def _out_roles(model: Model) -> tuple[Role, ...]:
    if model.kind == "step":
        return Role.STATE, Role.AUX
    state = () if model.state is None else (Role.STATE,)
    return (Role.AUX, *state) if model.kind == "inference" else (Role.LOSS, *state, Role.AUX)


def _forward(model: Model, microbatches: int) -> Graph:
    args, roles = _arguments(model, microbatches)
    return trace_graph(_normalised(model), args, roles, _out_roles(model), keep_calls=model.kind == "train",
                       layers_of=frozenset({Role.STATE if model.kind == "step" else Role.PARAM}))


def _with_own_origins(graph: Graph) -> Graph:
    return replace(graph, ops=tuple([Op(op.primitive, op.operands, op.results, op.params, op.bodies, op.source,
                                        op.phase, n, op.payload) for n, op in enumerate(graph.ops)]))


def _check_loss(model: Model, parts: tuple[Any, ...]) -> None:
    most = 2 if model.state is None else 3
    if not parts or len(parts) > most:
        raise TraceError(f"{name_of(model.fn)} returns a tuple of {len(parts)}, where at most {most} are expected",
                         "return the loss, then the new state if the model has state, then metrics as one pytree")
    shape, dtype = jax.numpy.shape(parts[0]), jax.numpy.result_type(parts[0])
    if shape != () or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        raise TraceError(f"the loss of {name_of(model.fn)} has shape {shape} and dtype {dtype}, not a floating scalar",
                         "return the mean of the loss over the batch as the first result")


def _check_state(model: Model, parts: tuple[Any, ...]) -> None:
    place = 0 if model.kind == "step" else 1
    if len(parts) <= place:
        raise TraceError(f"{name_of(model.fn)} returns no new state, but the model has state",
                         "return it right after the loss (inference: after the outputs; a train step: first)")
    wanted, given = leaves_with_paths(abstract_tree(model.state, "state")), leaves_with_paths(parts[place])
    if [p for p, _ in wanted] != [p for p, _ in given]:
        differing = sorted({p for p, _ in wanted} ^ {p for p, _ in given})
        raise TraceError(f"the new state of {name_of(model.fn)} has other leaves than the state: "
                         f"{', '.join(differing)}", "return the state with the same structure it came in with")
    for (path, old), (_, new) in zip(wanted, given, strict=True):
        if tuple(old.shape) != jax.numpy.shape(new) or old.dtype != jax.numpy.result_type(new):
            raise TraceError(f"state {path!r} of {name_of(model.fn)} goes in as {old.dtype}{list(old.shape)} "
                             f"and comes out as {jax.numpy.result_type(new)}{list(jax.numpy.shape(new))}",
                             "keep shape and dtype of the state from step to step")


def _check_trainable(model: Model, forward: Graph) -> None:
    for given in forward.inputs_of(Role.PARAM):
        if not is_inexact(forward.values[given.value].dtype):
            raise ModelError(f"parameter {given.path!r} of {model.name!r} is {forward.values[given.value].dtype}, "
                             "which has no gradient", "move it to the state")
