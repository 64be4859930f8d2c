"""Products that the plan has made in shards and gathered afterwards are made so, and so are parts of arrays.

The partitioner gives an operator the sharding that its result is constrained to. A product made in shards and then
needed whole would become a product of whole operands, which may be far larger to gather: the gradient of what goes into
the logits is as wide as the model, the logits are as wide as the vocabulary. So where a product settles in fewer shards
than it is made in, it is constrained twice: as it is made, and as it settles. Sums over sharded dimensions are left
alone, so that they can be scattered. A part that is cut out of a dimension, or put into one, is made where that is
whole: of a result that lies in shards along it, the partitioner would exchange borders with the neighbours.

In: `Annotated`. Out: `Annotated`, with a copy after each such operator.
"""

from collections.abc import Sequence

from planner.core.plan import PlanRecord
from planner.core.spec import Spec, shard_count
from planner.emit.annotated import Annotated
from planner.emit.edit import Edit
from planner.emit.inferred import infer

PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
"""Operators with operands much larger than their results. Others are left to the partitioner."""

CUTS = frozenset({"slice", "pad", "concatenate"})
"""Operators that move elements along a dimension. What others make of a dimension that they can't share is local."""


def with_products_as_made(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with products constrained to the sharding that they are made in before they settle."""
    inferred = infer(given)
    edit = Edit(given)
    for n, op in enumerate(given.graph.ops):
        own, settled = inferred[given.stage_of[n]], given.specs[given.stage_of[n]]
        mesh = record.stages[given.stage_of[n]].mesh_shape
        here = [v for v in op.results if v in settled]
        if op.primitive in PRODUCTS and n not in own.reduced:
            here = [v for v in here if shard_count(own.natural[v], mesh) > shard_count(settled[v], mesh)]
        elif op.primitive in CUTS:
            bindings = dict(zip(op.results, own.rules[n].results, strict=True))
            here = [v for v in here if _is_split_where_cut(settled[v], bindings[v])]
        else:
            here = []
        edit.keep_made(n, {v: own.natural[v] for v in here})
    return edit.finish()


def _is_split_where_cut(settled: Spec, binding: Sequence[int | None]) -> bool:
    """Whether a result lies in shards along a dimension that its operator can't share."""
    return any(axes and factor is None for axes, factor in zip(settled, binding, strict=True))
