"""Cheap values made from parameters alone are made again where they are read, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import planner
from planner.core.graph import Role
from planner.interpret import run_graph
from planner.trace import trace_graph
from planner.trace.local_copies import with_local_copies
from planner.trace.program import trace_program
from planner.trace.sink import sink


def loss(params, x):
    table = params["embed"].astype(jnp.bfloat16)  # read first and last
    angle = jnp.cos(jnp.arange(8, dtype=jnp.float32))  # read by every layer
    h = table[x]
    for w in params["layers"]:
        h = jnp.tanh((h * angle.astype(jnp.bfloat16)) @ w.astype(jnp.bfloat16))
    return (h @ table.T).astype(jnp.float32).sum()


def shapes():
    params = {"embed": jax.ShapeDtypeStruct((16, 8), jnp.float32),
              "layers": [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 3}
    return params, jax.ShapeDtypeStruct((4,), jnp.int32)


def traced():
    return sink(trace_graph(loss, shapes(), (Role.PARAM, Role.BATCH)))


def test_no_cheap_value_is_read_across_a_matmul():
    before, after = traced(), with_local_copies(traced())
    after.check()

    def longest(graph):
        """Most matmuls between the maker and a reader of a value that is made from parameters alone."""
        heavy = np.cumsum([op.primitive == "dot_general" for op in graph.ops])
        free = {i.value for i in graph.inputs_of(Role.PARAM)}
        most, made = 0, {}
        for n, op in enumerate(graph.ops):
            most = max([most, *(int(heavy[n - 1] - heavy[made[v]]) for v in op.inputs if v in made)])
            if all(v in free for v in op.inputs) and op.primitive != "dot_general":
                free.update(op.results)
                made.update(dict.fromkeys(op.results, n))
        return most

    assert longest(before) >= 3
    assert longest(after) == 0


def test_results_are_equal():
    before, after = traced(), with_local_copies(traced())
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.integers(0, 16, 4), jnp.int32) if i.role is Role.BATCH else
              jnp.asarray(rng.normal(size=before.values[i.value].shape), jnp.float32) for i in before.inputs]
    np.testing.assert_array_equal(run_graph(before, inputs)[0], run_graph(after, inputs)[0])


def test_a_value_that_is_also_an_output_stays_and_copying_again_changes_nothing():
    def both(params, x):
        low = params.astype(jnp.bfloat16)
        return ((x @ low) @ low).sum(), low

    args = (jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((2, 8), jnp.bfloat16))
    graph = with_local_copies(sink(trace_graph(both, args, (Role.PARAM, Role.BATCH))))
    graph.check()
    assert sum(op.primitive == "convert_element_type" for op in graph.ops) >= 2
    again = with_local_copies(graph)
    assert len(again.ops) == len(graph.ops)


def test_expensive_and_random_values_are_not_copied():
    def heavy(params, x):
        w = params @ params  # a matmul of parameters is shared
        noise = jax.random.uniform(jax.random.key(0), (8, 8))
        return ((x @ (w + 1)) @ (w + 1) * noise.sum()).sum()

    args = (jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((2, 8), jnp.float32))
    before = sink(trace_graph(heavy, args, (Role.PARAM, Role.BATCH)))
    after = with_local_copies(before)
    for name in ("dot_general", "random_bits"):
        assert [op.primitive for op in after.ops].count(name) == [op.primitive for op in before.ops].count(name) > 0


def test_the_gradient_of_a_copied_cast_is_that_of_the_function():
    params, _ = shapes()
    model = planner.Model(lambda p, b: loss(p, b["x"]), params, {"x": jax.ShapeDtypeStruct((4,), jnp.int32)},
                          optimizer=optax.sgd(0.1), loss_reduction="sum")
    micro = trace_program(model).micro
    rng = np.random.default_rng(1)
    real = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), params)
    x = jnp.asarray(rng.integers(0, 16, 4), jnp.int32)
    by_path = {"embed": real["embed"], **{f"layers/{n}": w for n, w in enumerate(real["layers"])}}
    outputs = run_graph(micro, [x if i.role is Role.BATCH else by_path[i.path.removeprefix("params/")]
                                for i in micro.inputs])
    wanted = jax.grad(loss)(real, x)["embed"]
    got = sum(value.astype(jnp.float32) for out, value in zip(micro.outputs, outputs, strict=True)
              if out.role is Role.GRAD and out.path.endswith("embed"))
    np.testing.assert_allclose(got, wanted, rtol=2e-2, atol=2e-2 * float(jnp.abs(wanted).max()))
