"""Plans that several processes run together, by name: what crosses processes differs in each."""

from collections.abc import Callable
from dataclasses import dataclass

from planner.core.layout import Placement
from tests.runtime import models
from tests.runtime.plans import Design, whole
from tests.runtime.test_training import PIPELINES, column, over


@dataclass(frozen=True)
class Case:
    build: Callable
    design: Design
    tolerance: float = 2e-5


CASES = {
    "fsdp, moments on the host": Case(models.mlp, Design(stored=over((0,)), used=whole, microbatches=2,
                                                         opt_on_host=lambda path: True)),
    "two stages, moments on the host": Case(models.mlp, Design(stages=2, mesh_shape=(4,), microbatches=4,
                                                               opt_on_host=lambda path: True)),
    "mixed": Case(models.mlp, Design(mesh_shape=(4, 2), stored=column, microbatches=2)),
    "mixed, four microbatches": Case(models.mlp, Design(mesh_shape=(4, 2), stored=column, microbatches=4)),
    "two stages": Case(models.mlp, PIPELINES["2 stages of 4"]),
    "tied": Case(models.tied, PIPELINES["2 stages of 4"]),
    "stateful, mixed": Case(models.stateful, PIPELINES["4 stages, mixed, recomputed"]),
    "stateful, data": Case(models.stateful, Design(microbatches=4)),
    "skipping": Case(models.skipping, Design(stages=4, mesh_shape=(2,), microbatches=4, stored=over((0,), 2))),
    # bf16 compute: sums in another order differ by its roundings, as in tests/runtime/test_training.py
    "clipped": Case(models.stacked, Design(stages=4, mesh_shape=(2,), microbatches=2), 2e-2),
    "interleaved": Case(models.mlp, Design(stages=4, chunks=2, mesh_shape=(4,), microbatches=4,
                                           schedule="interleaved", placement=Placement.LOOP)),
    "zero bubbles": Case(models.mlp, Design(stages=4, chunks=2, mesh_shape=(4,), microbatches=4,
                                            schedule="zb-v", placement=Placement.VEE)),
}
