"""The parallel computation graph of plans: every communication in one place, and nothing else."""

from collections import Counter

import jax
import pytest

import planner
from planner import models
from planner.core.plan import HALO_OF, Collective, PlanRecord
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER
from planner.errors import PlannerError
from planner.report import operator_words, plots
from planner.report.explain import explain
from planner.report.operators import Parallel, ParallelOperator, operators, parallel
from tests.integration.hlo import collectives
from tests.report.records import eight_devices, sixty_four_devices, vee


@pytest.fixture(scope="module")
def tensor() -> planner.Plan:
    """Two layers, their weights cut in eight."""
    return planner.plan(tiny(), planner.cluster("cpu-8"), recipe="tensor", mesh_axes=(("model", 8),), microbatches=1)


def tiny() -> models.ZooModel:
    return models.build("gpt-tiny", batch_size=32, layers=2, hidden=64, dtype="float32")


def all_of(record: PlanRecord) -> list[ParallelOperator]:
    found: list[ParallelOperator] = []
    for stage in operators(record):
        found += [m for b in stage.blocks for o in b.operators for m in (*o.before, *o.after)]
        found += [m for _, moves in stage.parameters for m in moves]
    return found


@pytest.mark.parametrize("record", [eight_devices(), sixty_four_devices(), vee()], ids=lambda r: str(len(r.stages)))
def test_each_communication_is_one_parallel_operator(record):
    said = [c for s in record.stages for c in s.collectives]
    assert Counter(m.of for m in all_of(record)) == Counter(said)


def test_of_a_found_plan_too_and_equal_layers_are_shown_once(tensor):
    (stage,), (plan,) = operators(tensor.record), tensor.stages
    assert Counter(m.of for m in all_of(tensor.record)) == Counter(plan.collectives)
    assert sorted(n for block in stage.blocks for n in block.layers) == list(range(*plan.layers))
    (twice,) = (block for block in stage.blocks if len(block.layers) == 2)
    after = [m for o in twice.operators for m in o.after]
    assert {m.kinds for m in after} == {(Parallel.REDUCE, Parallel.REPLICATE)}
    # Attention and feed-forward; on CPU the cotangents of query, key and value are summed over devices one by one.
    assert Counter(m.of.phase for m in after) == {"forward": 2, "backward": 2 + 2}
    last = twice.operators[-1]
    assert last.reads and all(r < len(twice.operators) - 1 for r in last.reads)
    assert {s.dimension for s in stage.stored} >= {0, 1, None} and {s.axis for s in stage.stored} == {"model"}


def test_the_compiler_makes_what_the_operators_are(tensor):
    """As many bytes are reduced; XLA on CPU reduces and scatters by an all-reduce."""
    model = tiny()
    step, state = tensor.compile(model, jax.devices(), params=models.init(model))
    found = collectives(step.lower(state, model.batch).compile().as_text())
    reduced = sum(m.of.bytes for m in all_of(tensor.record) if Parallel.REDUCE in m.kinds)
    assert reduced == sum(c.bytes for c in found if c.kind in (ALL_REDUCE, REDUCE_SCATTER)) > 0


@pytest.mark.parametrize(("kind", "where", "said"), [
    (ALL_GATHER, "dot", "combine dimension 1"), (ALL_REDUCE, "dot", "reduce, replicate"),
    (REDUCE_SCATTER, "dot", "reduce, partition dimension 0"), (ALL_TO_ALL, "dot", "combine dimension 1, partition "
                                                                                  "dimension 0"),
    ("collective-permute", HALO_OF + "conv", "exchange halos"), ("collective-permute", "dot", "permute")])
def test_collectives_in_unitys_words(kind, where, said):
    move = Collective(kind, (0,), 8, 1.0, "microbatch", "forward", where, cut=(1,), cuts=(0,))
    assert operator_words.kinds_text(parallel(move, eight_devices().stages[0])) == said


def test_explained_on_request_and_drawn_layer_by_layer(tensor, tmp_path):
    record = tensor.record
    assert "Operators that move tensors" not in explain(record)
    text = " ".join(tensor.explain(operators=True).split())
    assert "2 alike: dot_general" in text and "reduce, replicate over model (all-reduce in the forward, 2 × " in text
    assert "partition dimension 1 over model" in text
    tensor.plot(tmp_path / "last.png", "operators", layer=len(record.layers) - 1)
    assert (tmp_path / "last.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlannerError, match="there is no layer 99"):
        plots.plot(record, tmp_path / "none.png", "operators", 99)
    with pytest.raises(PlannerError, match="is of all layers"):
        plots.plot(record, tmp_path / "none.png", "memory", 0)
