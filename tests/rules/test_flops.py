"""FLOPs of single operators against XLA's own cost analysis, and of loops and branches by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from planner.rules import flops_of, graph_flops
from tests.rules.harness import QUICK, Case, graph_of, runner
from tests.rules.instances import ELEMENTWISE, INSTANCES, X, f32

EXACT = (
    "dot_general", "conv_general_dilated", "reshape", "transpose", "broadcast_in_dim", "slice", "pad", "concatenate",
    "reduce_sum", "reduce_max", "argmax", "cumsum", "cumlogsumexp", "sort", "reduce_window_max", "reduce_window_sum",
    "dynamic_slice", "dynamic_update_slice", "rev",
)
EXACT_ELEMENTWISE = (
    "abs", "add", "mul", "div", "max", "sub", "neg", "sign", "floor", "select_n", "clamp", "convert_element_type", "gt",
    "exp", "log", "tanh", "sin", "rsqrt", "sqrt", "erf", "pow", "log1p", "expm1", "logistic", "integer_pow", "erf_inv",
    "is_finite", "square", "and", "shift_left",
)


def compiler_flops(case: Case) -> float:
    """What XLA's cost analysis says of the operator alone."""
    arrays = case.arrays()
    compiled = jax.jit(lambda xs: runner(case.op)(*xs)).lower(arrays).compile(QUICK)
    return (compiled.cost_analysis() or {}).get("flops", 0.0)


def instances() -> list[tuple[str, int]]:
    return [(p, n) for p in EXACT for n in range(len(INSTANCES[p]))] + [(p, -1) for p in EXACT_ELEMENTWISE]


@pytest.mark.parametrize(("primitive", "n"), instances())
def test_flops_are_the_compilers(primitive: str, n: int):
    fn, args = ELEMENTWISE[primitive] if n < 0 else INSTANCES[primitive][n]
    case = Case.of(fn, args, primitive)
    assert flops_of(case.graph, case.op) == compiler_flops(case)


@pytest.mark.parametrize("size", [7, 16, 40, 300, 2100])
def test_running_sums_of_any_length(size: int):
    case = Case.of(lambda x: lax.cumsum(x, 0), (f32(size),), "cumsum")
    assert flops_of(case.graph, case.op) == compiler_flops(case)


def _scan(length: int) -> Callable[..., Any]:
    return lambda x, w: lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=length)[0]


def test_a_scan_counts_its_body_once_per_step():
    graph = graph_of(_scan(5), X, f32(8, 8))
    assert graph_flops(graph) == 5 * 2 * 4 * 8 * 8


def test_a_branch_counts_as_the_dearest():
    def fn(p: Any, x: Any, w: Any) -> Any:
        return lax.cond(p, lambda: x @ w, lambda: x + 1.0)

    graph = graph_of(fn, jax.ShapeDtypeStruct((), bool), X, f32(8, 8))
    (cond,) = [op for op in graph.ops if op.primitive == "cond"]
    assert flops_of(graph, cond) == 2 * 4 * 8 * 8


def test_a_while_loop_counts_one_turn():
    def fn(n: Any, x: Any, w: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] @ w), (jnp.int32(0), x))[1]

    graph = graph_of(fn, jax.ShapeDtypeStruct((), jnp.int32), X, f32(8, 8))
    assert graph_flops(graph) == 2 * 4 * 8 * 8 + 2  # the counter's comparison and increment


def test_an_unknown_primitive_counts_one_per_result_element():
    graph = graph_of(lambda x: jax.pure_callback(lambda a: a, x, x), X)
    assert graph_flops(graph) == 32
