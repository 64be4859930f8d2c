"""Products that the plan has made in shards and gathered afterwards are made so.

The partitioner gives an operator the sharding that its result is constrained to. A product made in shards and then
needed whole would become a product of whole operands, which may be far larger to gather: the gradient of what goes into
the logits is as wide as the model, the logits are as wide as the vocabulary. So where a product settles in fewer shards
than it is made in, it is constrained twice: as it is made, and as it settles. Sums over sharded dimensions are left
alone, so that they can be scattered.

In: `Annotated`. Out: `Annotated`, with a copy after each such operator.
"""

from planner.core.plan import PlanRecord
from planner.core.spec import shard_count
from planner.emit.annotated import Annotated
from planner.emit.edit import Edit
from planner.emit.inferred import infer

PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
"""Operators with operands much larger than their results. Others are left to the partitioner."""


def with_products_as_made(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with products constrained to the sharding that they are made in before they settle."""
    inferred = infer(given)
    edit = Edit(given)
    for n, op in enumerate(given.graph.ops):
        stage = given.stage_of[n]
        mesh, natural, settled = record.stages[stage].mesh_shape, inferred[stage].natural, given.specs[stage]
        gathered = {v: natural[v] for v in op.results if op.primitive in PRODUCTS and v in settled
                    and n not in inferred[stage].reduced
                    and shard_count(natural[v], mesh) > shard_count(settled[v], mesh)}
        edit.keep_made(n, gathered)
    return edit.finish()
