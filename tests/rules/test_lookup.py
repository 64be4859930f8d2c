"""What the rest of the planner asks of the table: unknown primitives, warnings, extension from outside."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from planner.rules import RULES, has_rule, is_elementwise, register, rule_of, rules_of, warnings_of
from planner.rules.labels import from_labels, replicated_rule
from tests.rules.harness import graph_of
from tests.rules.instances import X, f32


def _same(a):
    return a


def test_a_primitive_without_a_rule_is_replicated_and_reported_with_its_lines():
    def fn(x):
        y = jax.pure_callback(_same, x, x)
        return jax.pure_callback(_same, y, y) @ x.T

    graph = graph_of(fn, X)
    assert not has_rule("pure_callback")
    assert rule_of(graph, graph.ops[0]).results == ((None, None),)
    (warning,) = warnings_of(graph)
    assert warning.startswith("'pure_callback' runs whole on every device, it has no sharding rule (2 times; ")
    assert "test_lookup.py:" in warning


def test_a_primitive_inside_a_loop_is_reported_too():
    graph = graph_of(lambda x: lax.scan(lambda c, _: (jnp.fft.fft(c).real, None), x, None, length=3)[0], X)
    (warning,) = warnings_of(graph)
    assert warning.startswith("'fft' runs whole on every device, the compiler does not partition it (once; ")


def test_what_has_rules_gives_no_warning():
    graph = graph_of(lambda x: jnp.sum(jnp.tanh(x @ x.T)), X)
    assert warnings_of(graph) == ()
    assert len(rules_of(graph)) == len(graph.ops)


def test_only_elementwise_primitives_are_elementwise():
    assert is_elementwise("mul")
    assert is_elementwise("select_n")
    assert not is_elementwise("dot_general")
    assert not is_elementwise("no_such_primitive")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'dot_general' is registered twice"):
        register("dot_general")(lambda op, ins, outs: replicated_rule(ins, outs))
    assert RULES["dot_general"].factors.__name__ == "dot_general"


def test_a_reduced_label_on_a_result_is_refused():
    graph = graph_of(lambda x: x, X)
    with pytest.raises(ValueError, match="a reduced label is on a result"):
        from_labels(graph.values, graph.values, ["mk"], ["mk"], reduce="k")


def test_factors_that_no_shard_count_divides_are_left_out():
    graph = graph_of(lambda x: x.reshape(5, 3), f32(3, 5))
    assert rule_of(graph, graph.ops[0]).factors == ()
