"""The program's micro graph as the plan runs it: every rewrite, in order.

In: a `PlanRecord` and its `Program`. Out: `Annotated`.
"""

from planner.core.graph import Program
from planner.core.plan import PlanRecord
from planner.emit.annotated import Annotated, annotate_program
from planner.emit.deferred import with_deferred_gradients
from planner.emit.gathers import with_gathers_per_layer
from planner.emit.host_copies import with_host_copies
from planner.emit.parted import with_shared_fetches
from planner.emit.recompute import with_recompute
from planner.emit.remade import with_remade
from planner.emit.settle import with_products_as_made


def rewritten(record: PlanRecord, program: Program) -> tuple[Annotated, tuple[str, ...]]:
    """The program's micro graph as the plan runs it, and what of the plan it does not do."""
    return with_deferred_gradients(record, before_deferral(record, program))


def before_deferral(record: PlanRecord, program: Program) -> Annotated:
    """The same before gradients are kept apart until the end of the batch: every operator as it was traced."""
    given = with_remade(record, with_recompute(record, annotate_program(record, program)))
    given = with_products_as_made(record, with_gathers_per_layer(record, given))
    return with_shared_fetches(record, with_host_copies(record, given))
