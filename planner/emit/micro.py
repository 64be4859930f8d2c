"""One microbatch of a one-stage plan as a function: what runs inside the step's `jit`.

In: `Annotated` (rewritten) and a mesh. Out: arrays by role.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.core.graph import Graph, Role
from planner.core.plan import ParamPlan
from planner.emit.annotated import Annotated
from planner.emit.contributions import contributions
from planner.emit.names import gradient_name
from planner.emit.tasks import Constraints, output_array, run_code


@dataclass(frozen=True)
class MicroResult:
    """What one microbatch gives; `grads` has one entry per parameter, contributions summed (partial if deferred)."""

    loss: Any
    state: tuple[Any, ...]
    aux: tuple[Any, ...]
    grads: tuple[Any, ...]


def run_micro(given: Annotated, constraints: Constraints, inputs: Mapping[int, Any], params: Sequence[ParamPlan]
              ) -> MicroResult:
    """Run the whole graph.

    Args:
      given: graph and annotations.
      constraints: of its only stage.
      inputs: array per input and constant.
      params: in the order of the PARAM inputs.
    """
    graph, env = given.graph, dict(inputs)
    run_code(graph, range(len(graph.ops)), env, constraints)
    losses = by_role(graph, Role.LOSS, env)
    return MicroResult(losses[0] if losses else None, state_in_order(graph, env), by_role(graph, Role.AUX, env),
                       tuple(grad_sum(graph, p, env) for p in params) if _has_grads(graph) else ())


def by_role(graph: Graph, role: Role, env: Mapping[int, Any]) -> tuple[Any, ...]:
    """Arrays of the outputs of one role, in order."""
    return tuple(output_array(o.operand, env) for o in graph.outputs_of(role))


def state_in_order(graph: Graph, env: Mapping[int, Any]) -> tuple[Any, ...]:
    """New state in the order of the STATE inputs."""
    made = {(o.path, o.row): o.operand for o in graph.outputs_of(Role.STATE)}
    return tuple(output_array(made[i.path, i.row], env) for i in graph.inputs_of(Role.STATE))


def grad_sum(graph: Graph, param: ParamPlan, env: Mapping[int, Any]) -> Any:
    """The gradient of one parameter from one microbatch, in the dtype that it is accumulated in."""
    first, *others = (env[v] for v in contributions(graph, param))
    with jax.named_scope(gradient_name(param.path, param.row)):
        total = first.astype(accumulation_dtype(param.dtype))
        for other in others:
            total = total + other
        return total


def accumulation_dtype(dtype: str) -> Any:
    """Gradients of 16-bit parameters are summed over microbatches in float32, others in their own dtype."""
    own = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if own.itemsize < 4 else own


def _has_grads(graph: Graph) -> bool:
    return next(graph.outputs_of(Role.GRAD), None) is not None
