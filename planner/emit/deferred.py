"""Gradients summed over devices once per batch: partial sums keep a leading dimension until then.

In: `Annotated`. Out: `Annotated` whose deferred gradients have leading dimensions.
"""

from planner.core.graph import Graph
from planner.core.plan import ParamPlan
from planner.core.spec import Spec
from planner.emit.annotated import Annotated
from planner.emit.micro import contributions


def lead_count(given: Annotated, param: ParamPlan) -> int:
    """Leading dimensions of the gradient of a parameter: 0 unless it is deferred."""
    return len(_grad_shape(given.graph, param)) - len(param.shape)


def settled_spec(given: Annotated, param: ParamPlan, stage: int) -> Spec:
    """The sharding in which a gradient is accumulated on a stage."""
    return param.update_spec


def _grad_shape(graph: Graph, param: ParamPlan) -> tuple[int, ...]:
    return graph.values[contributions(graph, param)[0]].shape
