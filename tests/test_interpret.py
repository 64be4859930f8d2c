"""Running graphs: outputs, hooks, literals, tracing under jit, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from planner.core.graph import Op, Role
from planner.interpret import run_graph, run_ops
from planner.trace import trace_graph


def control_flow(x: Any, n: Any) -> Any:
    """Loops and branches whose bodies ride in the payload, a constant, and a literal output."""
    x = lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * 1.5), (0, x))[1]
    x = lax.cond(n > 2, jnp.sin, jnp.cos, x)
    return x + np.arange(100.0, dtype=np.float32), lax.scan(lambda c, v: (c + v, c), 0.0, x), 7.0


@pytest.fixture(scope="module")
def traced() -> Any:
    args = jax.ShapeDtypeStruct((100,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    return trace_graph(control_flow, args, (Role.BATCH, Role.BATCH))


@pytest.mark.parametrize("n", [1, 4])
def test_runs_eagerly_and_under_jit(traced: Any, n: int) -> None:
    x = jnp.linspace(0, 1, 100)
    want = jax.tree.leaves(jax.jit(control_flow)(x, n))
    for run in (run_graph, jax.jit(run_graph, static_argnums=0)):
        got = run(traced, [x, jnp.int32(n)])
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_hooks_see_every_operator_and_can_change_values(traced: Any) -> None:
    seen: list[tuple[int, str]] = []

    def after(index: int, op: Op, results: list[Any]) -> list[Any]:
        seen.append((index, op.primitive))
        return [r * 0 for r in results] if op.primitive == "cond" else results

    def before(_: int, op: Op, operands: list[Any]) -> list[Any]:
        return [operands[0], operands[1] + 1] if op.primitive == "add" else operands

    results = run_graph(traced, [jnp.ones(100), jnp.int32(1)], hook=after, operand_hook=before)
    assert seen == [(n, op.primitive) for n, op in enumerate(traced.ops)]
    np.testing.assert_allclose(results[0], np.arange(100) + 1)


def test_a_part_of_the_operators_keeps_its_indices(traced: Any) -> None:
    env = dict(traced.constants)
    env.update(zip((i.value for i in traced.inputs), [jnp.ones(100), jnp.int32(1)], strict=True))
    numbers: list[int] = []
    half = len(traced.ops) // 2
    run_ops(traced.ops[:half], env)
    run_ops(list(enumerate(traced.ops))[half:], env, hook=lambda n, op, results: numbers.append(n) or results)
    assert numbers == list(range(half, len(traced.ops)))


def test_missing_inputs_are_refused(traced: Any) -> None:
    with pytest.raises(ValueError, match="1 inputs given for a graph of 2"):
        run_graph(traced, [jnp.ones(100)])
    with pytest.raises(KeyError):
        run_ops(traced.ops, {})
