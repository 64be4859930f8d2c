"""Degrees of context and expert parallelism come out of the same search: they are shardings of a dimension."""

import planner
from planner import models
from planner.trace import trace_program


def test_one_long_sequence_is_cut_along_its_positions():
    """One sequence of 16,384: there is no batch to cut, and its activations are larger than the parameters."""
    model = models.build("llama-tiny", batch_size=1, dtype="bfloat16", sequence=16384, hidden=512, layers=2)
    plan = planner.plan(model, planner.cluster("dgx-h100", 1), microbatches=1, stages=1)
    (stage,) = plan.record.stages
    graph, specs = trace_program(model, 1).micro, dict(stage.specs)
    hidden = [v for v, spec in specs.items() if graph.values[v].shape[:2] == (1, 16384) and len(spec) == 3]
    assert hidden and all(specs[v] == ((), (0,), ()) for v in hidden)


def test_experts_are_kept_apart_where_there_are_many():
    """Every device has its part of the experts, and all of what each token goes through: attention, and norms."""
    model = models.build("moe-7.1b", batch_size=64, dtype="float16", layers=2)
    plan = planner.plan(model, planner.cluster("p3.16xlarge", 1), microbatches=1, stages=1)
    found = {p.path: p for p in plan.record.params}
    for name in ("up", "down"):
        assert found[f"pairs/0/sparse/experts/{name}"].spec == ((0,), (), ())
    assert all(not any(p.spec) for path, p in found.items() if "attention" in path)
    assert plan.record.stages[0].mesh_shape == (8,)
