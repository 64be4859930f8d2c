"""The weight part of a backward, on models small enough to name its operators."""

import jax.numpy as jnp
import optax
import pytest

from planner.core.backward_split import weight_part
from planner.core.graph import Phase, Role
from planner.model import Model
from planner.trace import trace_program
from tests.runtime import models


def split(model: Model, layers: int):
    """(graph, weight part) of a model cut into layers of as many operators, wherever that cuts."""
    program = trace_program(model, 1)
    count = len(program.forward.ops)
    cuts = [count * n // layers for n in range(layers + 1)]
    bounds = list(zip(cuts, cuts[1:], strict=False))
    return program.micro, weight_part(program.micro, bounds)


def late(graph):
    return [n for n, op in enumerate(graph.ops) if op.phase is Phase.BACKWARD]


@pytest.mark.parametrize("build", [models.mlp, models.tied, models.skipping, models.stateful, models.stacked])
@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_the_first_part_never_reads_the_second(build, layers):
    graph, weight = split(build(), layers)
    made = {v for n in weight for v in graph.ops[n].results}
    for n in late(graph):
        if n not in weight:
            assert not made.intersection(graph.ops[n].inputs)


@pytest.mark.parametrize("build", [models.mlp, models.tied, models.skipping])
def test_of_one_layer_everything_is_weight_part(build):
    """Nothing leaves the first layer of a model."""
    graph, weight = split(build(), 1)
    assert weight == frozenset(late(graph))


def test_a_product_for_the_input_and_one_for_the_weights():
    """Each of four layers multiplies twice in its backward; the first has no input that wants a gradient."""
    program = trace_program(models.mlp(), 1)
    starts = [n for n, op in enumerate(program.forward.ops) if op.primitive == "dot_general"]
    bounds = list(zip([0, *starts[1:]], [*starts[1:], len(program.forward.ops)], strict=True))
    graph, weight = program.micro, weight_part(program.micro, bounds)
    products = {k: [n for n in late(graph) if graph.ops[n].primitive == "dot_general"
                    and first <= graph.ops[n].origin < last] for k, (first, last) in enumerate(bounds)}
    for k, mine in products.items():
        assert len(mine) == (2 if k else 1)
        assert sum(n in weight for n in mine) == 1
    grads = {o.operand for o in graph.outputs_of(Role.GRAD)}
    makers = {n for n in late(graph) if grads.intersection(graph.ops[n].results)}
    assert makers <= weight


def test_a_weight_that_is_cast_once_keeps_its_gradients_in_the_weight_part():
    """The cast stands in the first layer, three layers read it: their gradients go there to be added and cast back,
    and that makes no cotangent of them."""
    def loss(params, batch):
        w = params.astype(jnp.bfloat16)
        x = batch.astype(jnp.bfloat16)
        for _ in range(3):
            x = jnp.tanh(x @ w)
        return jnp.mean(x.astype(jnp.float32) ** 2)

    model = Model(loss, jnp.ones((8, 8)), jnp.ones((4, 8)), optax.sgd(0.1), name="shared")
    program = trace_program(model, 1)
    starts = [n for n, op in enumerate(program.forward.ops) if op.primitive == "dot_general"]
    bounds = [(0, starts[1]), (starts[1], starts[2]), (starts[2], len(program.forward.ops))]
    graph, weight = program.micro, weight_part(program.micro, bounds)
    products = [n for n in late(graph) if graph.ops[n].primitive == "dot_general"]
    assert len(products) == 5
    assert sum(n in weight for n in products) == 3


def test_what_other_stages_read_is_made_first():
    graph, weight = split(models.mlp(), 4)
    grad = next(o.operand for o in graph.outputs_of(Role.GRAD) if o.path.endswith("layer3/w"))
    maker = graph.producers[grad]
    assert maker in weight
    program = trace_program(models.mlp(), 1)
    count = len(program.forward.ops)
    again = weight_part(graph, [(count * n // 4, count * (n + 1) // 4) for n in range(4)], needed=[grad])
    assert maker not in again and again < weight
