"""Our operator-wise reverse mode against JAX's own, and what it promises about the graph it makes."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner.core.graph import Phase, Program, Role
from planner.interpret import run_graph
from planner.model import Model
from planner.trace import join_params, program_trees, split_leaves, split_params, trace_program
from tests.trace.cases import CASES, Case


def model_of(case: Case, **extra: Any) -> Model:
    return Model(case.fn, case.params, case.batch, optimizer=optax.sgd(0.1), state=case.state, **extra)


@cache
def program_of(name: str) -> Program:
    return trace_program(model_of(CASES[name]()))


def run_micro(program: Program, case: Case) -> tuple[Any, dict[tuple[str, int | None], Any], list[Any]]:
    """Loss, summed gradients by (path, row), and everything else in order of output."""
    inputs = [*split_params(program, case.params), *jax.tree.leaves(case.state), *jax.tree.leaves(case.batch)]
    results = jax.jit(lambda *xs: run_graph(program.micro, xs))(*inputs)
    grads: dict[tuple[str, int | None], Any] = {}
    loss, others = None, []
    for out, result in zip(program.micro.outputs, results, strict=True):
        if out.role is Role.GRAD:
            key = out.path, out.row
            grads[key] = result if key not in grads else grads[key] + result
        elif out.role is Role.LOSS:
            loss = result
        else:
            others.append(result)
    return loss, grads, others


def expected(case: Case) -> tuple[Any, Any, list[Any]]:
    """Loss, gradient pytree, and the other outputs, from JAX."""
    args = (case.params, case.batch) if case.state is None else (case.params, case.state, case.batch)

    def split(*args: Any) -> Any:
        out = case.fn(*args)
        parts = out if isinstance(out, tuple) else (out,)
        return parts[0], parts[1:]

    (loss, others), grads = jax.jit(jax.value_and_grad(split, has_aux=True))(*args)
    return loss, grads, jax.tree.leaves(others)


def plain(x: Any) -> Any:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def compare(name: str, rtol: float, atol: float) -> None:
    case = CASES[name]()
    program = trace_program(model_of(case))
    for graph in (program.forward, program.micro):
        graph.check()
    loss, grads, others = run_micro(program, case)
    want_loss, want_grads, want_others = expected(case)
    np.testing.assert_allclose(loss, want_loss, rtol=rtol, atol=atol)
    params = tuple(program.forward.inputs_of(Role.PARAM))
    assert list(dict.fromkeys(grads)) == [(p.path, p.row) for p in params], "one gradient per parameter, in order"
    for param, want in zip(params, split_leaves(want_grads, params), strict=True):
        got = grads[param.path, param.row]
        assert got.dtype == want.dtype and got.shape == want.shape
        scale = float(jnp.max(jnp.abs(want)))
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol + rtol * scale, err_msg=f"{param.path} {param.row}")
    for got, want in zip(others, want_others, strict=True):
        np.testing.assert_allclose(plain(got), plain(want), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ["mlp", "batch_statistics", "dropout"])
def test_equals_jax_in_float32(name: str) -> None:
    # XLA sums in another order in each program: some units in the last place (6e-8), grown by the sums' condition.
    compare(name, 2e-5, 2e-6)


def test_equals_jax_in_bfloat16() -> None:
    # 8 bits (4e-3), and the contributions to a cotangent are added in another order.
    compare("mixed_precision_scan", 4e-2, 4e-3)


@pytest.mark.parametrize("name", [n for n in CASES if n != "mixed_precision_scan"])
def test_equals_jax_in_float64(name: str) -> None:
    with jax.enable_x64(True):
        compare(name, 1e-12, 1e-13)


@pytest.mark.parametrize("name", CASES)
def test_every_operator_has_phase_and_origin(name: str) -> None:
    program = program_of(name)
    forward = len(program.forward.ops)
    phases = [op.phase for op in program.micro.ops]
    assert phases == sorted(phases, key=[Phase.FORWARD, Phase.BACKWARD].index), "forward first, then backward"
    assert all(0 <= op.origin < max(forward, 1) for op in program.micro.ops)
    zeros = [o.operand for o in program.micro.outputs_of(Role.GRAD)]  # of parameters that the loss does not reach
    backward = [op.origin for op in program.micro.ops if op.phase is Phase.BACKWARD
                and not (op.primitive == "broadcast_in_dim" and op.results[0] in zeros)]
    assert backward == sorted(backward, reverse=True), "the backward visits forward operators from last to first"
    calls = {"custom_jvp_call", "custom_vjp_call", "checkpoint", "jit"}
    assert calls.isdisjoint(op.primitive for op in program.micro.ops)


@pytest.mark.parametrize("name", CASES)
def test_forward_values_keep_their_indices(name: str) -> None:
    program = program_of(name)
    assert program.micro.values[:len(program.forward.values)] == program.forward.values
    assert program.micro.inputs == program.forward.inputs
    made = {v for op in program.micro.ops for v in op.results}
    needed = {v for op in program.forward.ops if op.primitive not in ("scan", "cond") for v in op.results}
    produced_elsewhere = {v for op in program.micro.ops for v in op.inputs} - made
    assert not needed & produced_elsewhere
    for value, cotangent in program.micro.cotangent_of:
        assert program.micro.values[value] == program.micro.values[cotangent]


def test_cotangents_are_totals() -> None:
    case, program = CASES["mlp"](), program_of("mlp")
    hidden = next(op.results[0] for op in program.forward.ops if op.primitive == "tanh")
    cotangent = dict(program.micro.cotangent_of)[hidden]
    inputs = [*jax.tree.leaves(case.params), *jax.tree.leaves(case.batch)]
    seen: dict[int, Any] = {}

    def watch(_: int, op: Any, results: list[Any]) -> list[Any]:
        seen.update(zip(op.results, results, strict=True))
        return results

    run_graph(program.micro, inputs, hook=watch)
    (w1, b1), (w2, b2) = case.params

    def rest(h: Any) -> Any:
        return jnp.mean((jnp.tanh(h @ w2 + b2) - case.batch["y"]) ** 2)

    want = jax.grad(rest)(jnp.tanh(case.batch["x"] @ w1 + b1))
    np.testing.assert_allclose(seen[cotangent], want, rtol=1e-5)


def test_tied_weights_give_one_gradient_per_reader() -> None:
    program = program_of("scanned_transformer")
    readers = [o for o in program.micro.outputs_of(Role.GRAD) if o.path == "embedding"]
    assert len(readers) == 2, "embedding and logits"
    producers = program.micro.producers
    origins = [program.micro.ops[producers[o.operand]].origin for o in readers]
    assert len(set(origins)) == 2


def test_residuals_are_inputs_and_results_of_operators() -> None:
    """tanh(x): 1 - y^2 is formed in the backward, so nothing but y is stored."""
    program = program_of("mlp")
    forward = [op.primitive for op in program.micro.ops if op.phase is Phase.FORWARD]
    assert forward == [op.primitive for op in program.forward.ops]


def test_heavy_residuals_stay_forward() -> None:
    """A custom rule that keeps a dot for its backward: that dot is done in the forward."""
    program = program_of("custom_rules")
    dots = [op.phase for op in program.micro.ops if op.primitive == "dot_general"]
    backward_dots = dots.count(Phase.BACKWARD)
    assert backward_dots == 3, "two of `projected`, one of the first layer; its batch needs no gradient"


def test_recomputation_is_behind_a_barrier_in_the_backward() -> None:
    program = program_of("rematerialised_scan")
    barriers = [op for op in program.micro.ops if op.primitive == "optimization_barrier"]
    assert len({op.origin for op in barriers}) == 2 and all(op.phase is Phase.BACKWARD for op in barriers)
    assert all(len(op.operands) == 1 for op in barriers), "each is sharded as what it holds back"
    recomputed = [op for op in program.micro.ops if op.primitive == "dot_general" and op.phase is Phase.FORWARD]
    backward = [op for op in program.micro.ops if op.primitive == "dot_general" and op.phase is Phase.BACKWARD]
    assert len(backward) > 2 * len(recomputed), "twice the forward's dots for the gradients, and the forward's again"


def test_join_is_the_inverse_of_split() -> None:
    case = CASES["scanned_transformer"]()
    model = model_of(case)
    program = trace_program(model)
    back = join_params(program, split_params(program, case.params), program_trees(model).params)
    assert jax.tree.structure(back) == jax.tree.structure(case.params)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(case.params), strict=True):
        np.testing.assert_array_equal(got, want)
