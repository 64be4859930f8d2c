"""Operators are named by the user's line, whatever library code lies between."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planner.core.graph import Phase, Role
from planner.trace import trace_graph
from planner.trace.sources import first_user_frame
from tests.trace.test_differentiate import program_of


def first(x: Any) -> Any:
    return jnp.var(x) + jax.nn.relu(x).sum()


def second(x: Any) -> Any:
    return jnp.var(x * 2) + jax.nn.relu(x).sum()


@jax.jit
def jitted(x: Any) -> Any:
    return jnp.sort(x)


@pytest.mark.parametrize("fn", [first, second])
def test_cached_library_functions_name_this_caller(fn: Any) -> None:
    graph = trace_graph(fn, (np.ones(3, np.float32),), (Role.BATCH,))
    line = fn.__code__.co_firstlineno + 1
    assert {op.source for op in graph.ops} == {f"test_sources.py:{line} ({fn.__name__})"}


def test_jitted_user_functions_name_their_own_lines() -> None:
    graph = trace_graph(lambda x: jitted(x) * 2, (np.ones(3, np.float32),), (Role.BATCH,))
    assert {op.source.split(" ")[1] for op in graph.ops} == {"(jitted)", "(<lambda>)"}


def test_recomputed_operators_name_the_lines_inside() -> None:
    program = program_of("rematerialised_scan")
    sources = {op.source.split(" ")[1] for op in program.micro.ops if op.phase is Phase.BACKWARD}
    assert {"(attention)", "(layer_norm)", "(block)"} <= sources
    assert not any(op.source == "" for op in program.micro.ops)


def test_frames_of_libraries_are_passed_over() -> None:
    frames = [("/x/site-packages/jax/_src/lax.py", 1, "add"), ("/x/site-packages/flax/nnx.py", 2, "f"),
              ("/x/site-packages/theirs/model.py", 3, "Model.__call__"), ("/y/train.py", 4, "main")]
    assert first_user_frame(frames) == "model.py:3 (__call__)"
    assert first_user_frame(frames[:2]) == ""
