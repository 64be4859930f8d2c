"""A model as a program: roles and paths, the update against optax, user-written steps, big models, bad input."""

import gc
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from planner.core.graph import Phase, Program, Role
from planner.errors import BatchError, ModelError, TraceError
from planner.interpret import run_graph
from planner.model import Model, train_step
from planner.trace import join_leaves, optimizer_init_graph, program_trees, split_leaves, split_params, trace_program
from tests.trace.cases import CASES, block, block_params, normal, squared
from tests.trace.test_differentiate import model_of, program_of

OPTIMIZERS = {
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "momentum": optax.sgd(optax.linear_schedule(0.1, 0.0, 10), momentum=0.9, nesterov=True),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=2),
    "lamb": optax.lamb(1e-2),
    # The mask looks at ranks: a stacked bias has rank 2 in the user's pytree, whatever becomes of its rows.
    "masked decay": optax.adamw(1e-2, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "low precision moments": optax.adam(1e-2, mu_dtype=jnp.bfloat16),
    "frozen part": optax.multi_transform({"a": optax.adam(1e-2), "b": optax.set_to_zero()},
                                         {"embedding": "a", "layers": "b"}),
}


def stacked_model(optimizer: Any) -> Model:
    def loss(params: Any, batch: Any) -> Any:
        x = params["embedding"][batch]
        x, _ = lax.scan(lambda x, p: (jnp.tanh(x @ p["w"] + p["b"]), None), x, params["layers"])
        return jnp.mean(x ** 2)
    params = {"embedding": normal(0, 7, 4), "layers": {"w": normal(1, 3, 4, 4), "b": normal(2, 3, 4)}}
    return Model(loss, params, jnp.arange(6), optimizer=optimizer)


def run_update(program: Program, model: Model, opt_state: Any, grads: Any) -> tuple[Any, Any]:
    assert program.update is not None
    graph, trees = program.update, program_trees(model)
    parts = {Role.PARAM: model.params, Role.OPT_STATE: opt_state, Role.GRAD: grads}
    inputs = [x for role, tree in parts.items() for x in split_leaves(tree, tuple(graph.inputs_of(role)))]
    results = jax.jit(lambda *xs: run_graph(graph, xs))(*inputs)
    places = {role: tuple(graph.outputs_of(role)) for role in (Role.PARAM, Role.OPT_STATE)}
    cut = len(places[Role.PARAM])
    return (join_leaves(trees.params, places[Role.PARAM], results[:cut]),
            join_leaves(trees.opt_state, places[Role.OPT_STATE], results[cut:]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_equals_optax(name: str) -> None:
    model = stacked_model(OPTIMIZERS[name])
    program = trace_program(model)
    assert program.update is not None
    program.update.check()
    grads = jax.tree.map(lambda p: jnp.cos(3 * p), model.params)
    opt_state = OPTIMIZERS[name].init(model.params)
    for _ in range(2):
        params, new_state = run_update(program, model, opt_state, grads)
        updates, want_state = jax.jit(OPTIMIZERS[name].update)(grads, opt_state, model.params)
        want = optax.apply_updates(model.params, updates)
        assert jax.tree.structure((params, new_state)) == jax.tree.structure((want, want_state))
        for got, ref in zip(jax.tree.leaves((params, new_state)), jax.tree.leaves((want, want_state)), strict=True):
            assert got.dtype == ref.dtype
            # bfloat16 moments round to 8 bits; float32 sums (norms) run in another order.
            np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(ref, np.float32), rtol=1e-5 if
                                       ref.dtype != jnp.bfloat16 else 1e-2, atol=1e-7)
        opt_state = want_state


def test_rows_of_parameters_meet_rows_of_moments_only() -> None:
    program = trace_program(stacked_model(optax.adamw(1e-2)))
    assert program.update is not None
    assert [(i.path, i.row) for i in program.forward.inputs_of(Role.PARAM)] == [
        ("embedding", None), *(("layers/b", n) for n in range(3)), *(("layers/w", n) for n in range(3))]
    moments = [(i.path, i.row) for i in program.update.inputs_of(Role.OPT_STATE)]
    assert ("0/count", None) in moments and ("0/mu/layers/w", 2) in moments and ("0/nu/embedding", None) in moments
    assert not any(op.primitive in ("concatenate", "slice") for op in program.update.ops), "no row is stacked for adamw"
    assert all(op.phase is Phase.UPDATE and op.origin == -1 for op in program.update.ops)
    outputs = [(o.path, o.row) for o in program.update.outputs_of(Role.OPT_STATE)]
    assert outputs == moments
    assert [(i.path, i.row) for i in program.update.inputs_of(Role.GRAD)] == \
        [(i.path, i.row) for i in program.forward.inputs_of(Role.PARAM)]


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_first_optimizer_state_equals_optax(name: str) -> None:
    model = stacked_model(OPTIMIZERS[name])
    program = trace_program(model)
    assert program.update is not None
    graph = optimizer_init_graph(model, program)
    graph.check()
    got = run_graph(graph, split_params(program, model.params))
    want = split_leaves(OPTIMIZERS[name].init(model.params), tuple(program.update.inputs_of(Role.OPT_STATE)))
    places = [(i.path, i.row) for i in program.update.inputs_of(Role.OPT_STATE)]
    assert [(o.path, o.row) for o in graph.outputs] == places
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_microbatches_divide_the_batch() -> None:
    batch = {"x": jnp.ones((4, 3)), "mask": jnp.ones((3, 3))}
    model = Model(lambda p, b: jnp.mean(b["x"] @ p @ b["mask"]), jnp.ones((3, 3)), batch,
                  optimizer=optax.sgd(0.1), unbatched=("mask",))
    program = trace_program(model, 2)
    assert {i.path: program.micro.values[i.value].shape for i in program.micro.inputs_of(Role.BATCH)} == \
        {"x": (2, 3), "mask": (3, 3)}
    assert program.microbatches == 2


def test_state_and_metrics_have_roles_and_paths() -> None:
    program = trace_program(model_of(CASES["batch_statistics"]()))
    roles = [(o.role, o.path) for o in program.micro.outputs if o.role is not Role.GRAD]
    assert roles == [(Role.LOSS, ""), (Role.STATE, "mean"), (Role.STATE, "var"), (Role.AUX, "largest")]


def test_inference_inlines_everything() -> None:
    params = block_params(2)
    model = Model(lambda p, x: {"y": lax.scan(jax.checkpoint(lambda x, q: (block(q, x), None)), x, p)[0]}, params,
                  normal(3, 2, 4, 8))
    program = trace_program(model)
    assert program.kind == "inference" and program.update is None and program.micro == program.forward
    assert {op.primitive for op in program.forward.ops}.isdisjoint({"checkpoint", "custom_jvp_call", "jit", "scan"})
    got = run_graph(program.forward, [*split_params(program, params), model.batch])
    want = model.fn(params, model.batch)["y"]
    np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-5)
    assert program_trees(model).aux == jax.tree.structure({"y": 0})


def test_user_written_step_has_its_layer_loops_unrolled() -> None:
    optimizer = optax.adam(1e-2)

    def loss(params: Any, batch: Any) -> Any:
        layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        return squared(lax.scan(layer, batch["x"], params)[0], batch["y"])

    def step(state: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(state["params"], batch)
        updates, opt_state = optimizer.update(grads, state["opt"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt_state}, {"loss": value}

    params = normal(0, 3, 4, 4)
    state, batch = {"params": params, "opt": optimizer.init(params)}, {"x": normal(1, 2, 4), "y": normal(2, 2, 4)}
    program = trace_program(train_step(step, state, batch))
    program.forward.check()
    names = [op.primitive for op in program.forward.ops]
    held_back = 3 * 3  # of each layer: input, weight, cotangent
    assert "scan" not in names and names.count("optimization_barrier") == held_back
    results = run_graph(program.forward, [*jax.tree.leaves(state), *jax.tree.leaves(batch)])
    for got, want in zip(results, jax.tree.leaves(step(state, batch)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_forty_eight_layers_of_gpt_39b_without_allocation() -> None:
    from tests.trace.gpt import gpt_loss, gpt_params
    params = gpt_params(layers=48, width=8192, heads=64, vocabulary=51200)
    batch = {n: jax.ShapeDtypeStruct((16, 1024), jnp.int32) for n in ("x", "y")}
    program = trace_program(Model(gpt_loss, params, batch, optimizer=optax.adamw(1e-4)))
    rows = [i for i in program.forward.inputs_of(Role.PARAM) if i.row is not None]
    assert len(rows) == 48 * 7
    count = sum(int(np.prod(program.forward.values[i.value].shape)) for i in program.forward.inputs_of(Role.PARAM))
    assert 38e9 < count < 41e9


def test_fingerprint_depends_on_structure_alone() -> None:
    case = CASES["scanned_transformer"]()
    same = case._replace(params=jax.tree.map(lambda p: p + 1, case.params))
    assert trace_program(model_of(case)).fingerprint == trace_program(model_of(same)).fingerprint
    other = case._replace(fn=lambda p, b: case.fn(p, b) * 2)
    assert trace_program(model_of(case)).fingerprint != trace_program(model_of(other)).fingerprint
    assert trace_program(model_of(case)).fingerprint != trace_program(model_of(case), 2).fingerprint


def test_fingerprint_is_the_same_in_another_process(pytestconfig: pytest.Config) -> None:
    code = ("import jax; jax.config.update('jax_platforms', 'cpu')\n"
            "from tests.trace.test_differentiate import program_of\n"
            "print(program_of('custom_rules').fingerprint, program_of('control_flow').fingerprint)")
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [program_of(n).fingerprint for n in ("custom_rules", "control_flow")]


def branching(params: Any, batch: Any) -> Any:
    if batch.sum() > 0:
        return jnp.sum(params)
    return jnp.prod(params)


BAD = {
    "Python branch on data": (branching, "branching could not be traced", TraceError),
    "NumPy on a tracer": (lambda p, b: np.sin(p).sum(), "not known while tracing", TraceError),
    "vector loss": (lambda p, b: p * 2, "shape (3,)", TraceError),
    "integer loss": (lambda p, b: jnp.int32(3), "int32", TraceError),
    "string result": (lambda p, b: (p.sum(), "done"), "not an array", TraceError),
    "shape error": (lambda p, b: (p @ jnp.ones((4, 4))).sum(), "test_program.py", TraceError),
    "too many results": (lambda p, b: (p.sum(), 1.0, 2.0), "tuple of 3", TraceError),
    "no derivative": (lambda p, b: lax.while_loop(lambda x: x.sum() < 9, lambda x: x * 2, p).sum(), "stop_gradient",
                      TraceError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_functions_are_refused_with_a_mend(name: str) -> None:
    fn, part, kind = BAD[name]
    with pytest.raises(kind) as caught:
        trace_program(Model(fn, jnp.ones(3), jnp.ones((4, 2)), optimizer=optax.sgd(0.1)))
    assert part in str(caught.value) and caught.value.mend


def test_bad_parts_are_refused() -> None:
    params, batch, sgd = jnp.ones(3), jnp.ones((4, 2)), optax.sgd(0.1)
    with pytest.raises(BatchError, match="does not divide"):
        trace_program(Model(lambda p, b: p.sum(), params, batch, optimizer=sgd), 3)
    with pytest.raises(BatchError, match="0 microbatches"):
        trace_program(Model(lambda p, b: p.sum(), params, batch, optimizer=sgd), 0)
    with pytest.raises(BatchError, match="train step"):
        trace_program(train_step(lambda s, b: (s, b.sum()), params, batch), 2)
    with pytest.raises(ModelError, match="int32"):
        trace_program(Model(lambda p, b: p["w"].sum(), {"w": params, "n": jnp.int32(1)}, batch, optimizer=sgd))
    with pytest.raises(TraceError, match="not an array"):
        trace_program(Model(lambda p, b: p["w"].sum(), {"w": params, "f": jnp.tanh}, batch, optimizer=sgd))
    with pytest.raises(TraceError, match="no new state"):
        trace_program(Model(lambda p, s, b: p.sum(), params, batch, optimizer=sgd, state={"m": params}))
    with pytest.raises(TraceError, match="other leaves"):
        trace_program(Model(lambda p, s, b: (p.sum(), {"k": p}), params, batch, optimizer=sgd, state={"m": params}))
    with pytest.raises(TraceError, match="shape and dtype"):
        trace_program(Model(lambda p, s, b: (p.sum(), {"m": p[0]}), params, batch, optimizer=sgd, state={"m": params}))


def test_tracing_leaves_the_garbage_collector_as_it_was() -> None:
    def seen(params: Any, batch: Any) -> Any:
        collecting.append(gc.isenabled())
        return jnp.mean(params * batch)

    def fails(params: Any, batch: Any) -> Any:
        raise ValueError("no loss")

    collecting: list[bool] = []
    trace_program(Model(seen, jnp.ones(2), jnp.ones(2), optimizer=optax.sgd(0.1)))
    assert collecting and not any(collecting) and gc.isenabled()
    with pytest.raises(TraceError, match="no loss"):
        trace_program(Model(fails, jnp.ones(2), jnp.ones(2), optimizer=optax.sgd(0.1)))
    assert gc.isenabled()
    gc.disable()
    try:
        trace_program(Model(seen, jnp.ones(2), jnp.ones(2), optimizer=optax.sgd(0.1)))
        assert not gc.isenabled()
    finally:
        gc.enable()
