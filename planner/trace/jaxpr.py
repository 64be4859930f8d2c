"""A JAX function as a `Graph`.

Flows in: a function and pytrees of arrays or `jax.ShapeDtypeStruct`s. Flows out: a `Graph` whose inputs and outputs
carry role and path. Nothing is allocated: a parameter may be of any size. What becomes of loops and nested calls is
told in `builder.py` and `unroll.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from planner.core.graph import Graph, Input, Literal, Operand, Output, Role
from planner.errors import PlannerError, TraceError
from planner.model import leaves_with_paths
from planner.trace.builder import Builder, Inlining
from planner.trace.sources import first_user_frame
from planner.trace.unroll import LayerScans


def trace_graph(fn: Callable[..., Any], args: Sequence[Any], roles: Sequence[Role], out_roles: Sequence[Role] = (), *,
                keep_calls: bool = False, layers_of: frozenset[Role] = frozenset({Role.PARAM})) -> Graph:
    """Trace `fn(*args)` to a graph.

    Args:
      fn: any function that `jax.jit` accepts.
      args: its positional arguments, pytrees of arrays or `jax.ShapeDtypeStruct`s.
      roles: one role per argument.
      out_roles: one role per element of the tuple that `fn` returns (it may be shorter); empty: all is AUX.
      keep_calls: keep custom_jvp, custom_vjp and checkpoint as operators with bodies, to be differentiated later.
      layers_of: a scan over rows of inputs of these roles is a loop over layers, and is unrolled.

    Returns:
      The graph, with dead operators removed. Paths are relative to the argument: a leaf of `{"w": [a, b]}` is `"w/0"`.

    Raises:
      TraceError: if the function cannot be traced; says where.
    """
    flat = [(role, path, leaf) for role, arg in zip(roles, args, strict=True) for path, leaf in leaves_with_paths(arg)]
    structs = [abstract_leaf(leaf, f"{role} input {path!r}") for role, path, leaf in flat]
    tree = jax.tree_util.tree_structure(tuple(args))
    found: list[list[tuple[Role, str]]] = []

    def flat_fn(*leaves: Any) -> list[Any]:
        out = fn(*jax.tree_util.tree_unflatten(tree, leaves))
        labelled = leaves_with_paths(out)
        for path, leaf in labelled:
            if not _is_array(leaf):
                raise TraceError(f"{name_of(fn)} returns a {type(leaf).__name__} at {path or 'result'!r}, not an array",
                                 "return arrays and scalars only; leave the rest out of the result")
        found.append(_output_labels(out, out_roles, fn))
        return [leaf for _, leaf in labelled]

    closed = _make_jaxpr(fn, flat_fn, structs)
    scans = LayerScans()
    builder = Builder(Inlining(keep_calls, scans))
    inputs = [Input(builder.value(s), role, path) for (role, path, _), s in zip(flat, structs, strict=True)]
    scans.layered.update(i.value for i in inputs if i.role in layers_of)
    results = builder.inline(closed.jaxpr, closed.consts, [i.value for i in inputs])
    outputs = [Output(o, role, path) for o, (role, path) in zip(results, found[-1], strict=True)]
    return without_dead_ops(builder.graph(inputs, outputs))


def without_dead_ops(graph: Graph) -> Graph:
    """The graph without operators and constants that no output depends on. Value indices stay."""
    live = {o.operand for o in graph.outputs if isinstance(o.operand, int)}
    kept = []
    for op in reversed(graph.ops):
        if not live.isdisjoint(op.results):
            live.update(op.inputs)
            kept.append(op)
    return replace(graph, ops=tuple(reversed(kept)), constants=tuple(c for c in graph.constants if c[0] in live))


def abstract_leaf(leaf: Any, where: str) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a leaf, array or abstract.

    Raises:
      TraceError: if it is neither (an activation function in a module, a string).
    """
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True))
    if isinstance(leaf, bool | int | float | complex):
        return jax.ShapeDtypeStruct((), jax.dtypes.result_type(leaf))
    raise TraceError(f"{where} is a {type(leaf).__name__}, not an array",
                     "keep what is not an array out of the pytree: close over it "
                     "(for Equinox: eqx.partition(module, eqx.is_array))")


def abstract_tree(tree: Any, what: str) -> Any:
    """The pytree with the shape and dtype of each leaf, as JAX will see it; `what` names a leaf in the error.

    Raises:
      TraceError: if a leaf is no array.
    """
    leaves = [abstract_leaf(leaf, f"{what} {path!r}") for path, leaf in leaves_with_paths(tree)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(tree), leaves)


def name_of(fn: Callable[..., Any]) -> str:
    """What to call a function in a message."""
    return str(getattr(fn, "__name__", None) or type(fn).__name__)


def operand_of(graph: Graph, role: Role, path: str) -> Operand:
    """The operand of the output with that role and path."""
    return next(o.operand for o in graph.outputs_of(role) if o.path == path)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex)


def _output_labels(out: Any, out_roles: Sequence[Role], fn: Callable[..., Any]) -> list[tuple[Role, str]]:
    if not out_roles:
        return [(Role.AUX, path) for path, _ in leaves_with_paths(out)]
    if not isinstance(out, tuple) or len(out) > len(out_roles):
        kind = f"a tuple of {len(out)}" if isinstance(out, tuple) else f"a {type(out).__name__}"
        raise TraceError(f"{name_of(fn)} returns {kind}, where a tuple of at most {len(out_roles)} is expected "
                         f"({', '.join(out_roles)})", "see planner.Model for the form of the function")
    return [(role, path) for role, part in zip(out_roles, out, strict=False) for path, _ in leaves_with_paths(part)]


def _make_jaxpr(fn: Callable[..., Any], flat_fn: Callable[..., Any], structs: list[jax.ShapeDtypeStruct]) -> Any:
    try:
        return jax.make_jaxpr(flat_fn)(*structs)
    except PlannerError:
        raise
    except Exception as error:  # whatever the user's function raises while it is traced
        what = f"{name_of(fn)} could not be traced: {type(error).__name__}: {str(error).strip().splitlines()[0]}" \
            if str(error).strip() else f"{name_of(fn)} could not be traced: {type(error).__name__}"
        place = _where(error)
        raise TraceError(f"{what}{f', at {place}' if place else ''}", _mend(error)) from error


def _where(error: BaseException) -> str:
    frames, tb = [], error.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        frames.append((code.co_filename, tb.tb_lineno, code.co_qualname))
        tb = tb.tb_next
    return first_user_frame(frames[::-1])


def _mend(error: Exception) -> str:
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
                  | jax.errors.TracerIntegerConversionError | jax.errors.NonConcreteBooleanIndexError):
        return ("the value is not known while tracing: write the choice with jnp.where or jax.lax.cond, the loop with "
                "jax.lax.scan or jax.lax.while_loop, and keep Python numbers out of the traced arguments")
    return "make it run under jax.eval_shape with the shapes of this model first"


def scalar_literal(value: float, dtype: str) -> Literal:
    """A scalar of that dtype as an operand."""
    return Literal(np.asarray(value, dtype=jax.numpy.dtype(dtype)), (), dtype)
