"""Every rule at every place of every family of the zoo: loss, state and gradients are the model's own, in float64.

By itself each class of places takes half a second; so that most of it is seen in every run, those that leave each other
alone are rewritten together as well, a few graphs a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import pytest

from planner import models
from planner.check.inputs import with_numbers
from planner.core.graph import Graph, Program, Role
from planner.model import Model
from planner.rewrites import RULES
from planner.rewriting.float64 import in_float64
from planner.rewriting.prove_model import TOLERANCE, Results, arrays_for, difference, prove_places, results
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced
from planner.trace import program_of, split_params
from planner.trace.program import trace_program

MODELS: MappingProxyType[str, dict[str, Any]] = MappingProxyType({
    "mlp-tiny": {"layers": 3}, "lstm-tiny": {}, "gpt-tiny": {"layers": 1}, "moe-tiny": {"layers": 2},
    "gpt2-tiny": {"layers": 2}, "llama-tiny": {"layers": 2}, "phi3-tiny": {"layers": 2}, "mixtral-tiny": {"layers": 2},
    "t5-tiny": {"layers": 1}, "vit-tiny": {"layers": 2}, "unet-tiny": {}, "wresnet-tiny": {},
})

QUICK = ("mlp-tiny", "lstm-tiny", "gpt-tiny")
"""What the default run evaluates."""

FEW = 40
"""Places of a model at most per rule: each is priced by a search."""


def cases(quick: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in quick else (pytest.mark.slow,)) for name in MODELS]


@cache
def traced(name: str, dtype: str = "float32") -> tuple[Model, Any, Program, list[Any]]:
    """A model with numbers, a batch, its program, arrays for the inputs."""
    zoo = models.build(name, batch_size=2, dtype=dtype, **MODELS[name])
    model, batch = with_numbers(zoo, 0), models.random_batch(zoo)
    program = trace_program(model)
    return model, batch, program, arrays_for(program, model, batch)


@pytest.mark.parametrize("name", ["gpt-tiny", "llama-tiny", "moe-tiny", "unet-tiny"])
def test_every_place_of_a_model_can_be_rewritten(name: str) -> None:
    graph = traced(name)[2].forward
    counts = dict.fromkeys(RULES, 0)
    for rule in RULES:
        found = sites(graph, RULES[rule])
        assert len({site.rewriting for site in found}) == len(found)
        for site in found:
            after = replaced(graph, RULES[rule], site.matches)
            after.check()
            assert [after.values[o.operand] for o in after.outputs] == [graph.values[o.operand] for o in graph.outputs]
            counts[rule] += 1
    assert max(counts.values()) <= FEW
    assert counts["fuse_attention"] and counts["recompute_attention"]


@pytest.mark.parametrize("name", cases(QUICK[:2]))
def test_the_graph_in_float64_is_the_model(name: str) -> None:
    model, batch, program, arrays = traced(name)
    (found,) = results(program, [arrays])
    assert difference(own_results(model, batch, program), found) < TOLERANCE


@pytest.mark.parametrize("name", cases(QUICK))
def test_places_rewritten_together_compute_the_same(name: str) -> None:
    _, _, program, arrays = traced(name)
    (before,) = results(program, [arrays])
    count = 0
    for places, forward in together(program.forward):
        forward.check()
        (after,) = results(program_of("train", forward, 1, program.update), [arrays])
        assert difference(before, after) < TOLERANCE, [str(s.rewriting) for s in places]
        count += len(places)
    assert count == sum(len(sites(program.forward, RULES[rule])) for rule in RULES) > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # other casts, other places
@pytest.mark.parametrize("name", MODELS)
def test_every_place_by_itself_computes_the_same(name: str, dtype: str) -> None:
    _, _, program, arrays = traced(name, dtype)
    proofs = list(prove_places(program, [arrays]))
    assert proofs and not [str(p) for p in proofs if not p.is_right]


@pytest.mark.slow
def test_numbers_that_are_rounded_and_products_of_few_digits_are_no_errors() -> None:
    model = models.build("vit-tiny", batch_size=1, layers=1)
    program = trace_program(model)
    arrays = arrays_for(program, with_numbers(model, 0), models.random_batch(model))
    rounded, fused = prove_places(program, [arrays], [RULES["scale_before_cast"], RULES["fuse_attention"]])
    assert TOLERANCE < rounded.worst < rounded.allowed < 0.01 and fused.worst < TOLERANCE == fused.allowed


def test_what_is_wrong_is_told() -> None:
    _, _, program, arrays = traced("mlp-tiny")
    rule = RULES["split_reduction"]
    wrong = replace(rule, replace=lambda match, *given: rule.replace(match, *given) * (1 + 2.0**-20))
    (proof,) = prove_places(program, [arrays], [wrong])
    assert not proof.is_right and proof.worst == pytest.approx(2.0**-20)


def own_results(model: Model, batch: Any, program: Program) -> Results:
    """Loss, state and gradients by JAX of the user's function, in float64: it shares no code with graphs."""
    def loss(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        out = model.fn(params, batch) if state is None else model.fn(params, state, batch)
        return out if isinstance(out, tuple) else (out, None)

    with jax.enable_x64(True):
        step = jax.jit(in_float64(jax.value_and_grad(loss, has_aux=True)))
        (value, state), grads = step(model.params, model.state, batch)
    given = {Role.LOSS: [value], Role.STATE: jax.tree_util.tree_leaves(state), Role.GRAD: split_params(program, grads)}
    found: dict[Any, Any] = {}
    for out in program.micro.outputs:
        key = (out.role, out.path, out.row)
        if key not in found:
            found[key] = np.asarray(given[out.role].pop(0))
    assert not any(given.values())
    return found


def together(graph: Graph) -> Iterator[tuple[list[Site], Graph]]:
    """Graphs with as many classes of places rewritten as are still there after one another, until each was in one."""
    left = {_made_at(s): s for rule in RULES for s in sites(graph, RULES[rule])}
    while left:
        after, done = graph, []
        for key in list(left):
            rule = RULES[key[0]]
            site = next((s for s in sites(after, rule) if _made_at(s) == key), None)
            if site is not None:
                after = replaced(after, rule, site.matches)
                done.append(left.pop(key))
        yield done, after


def _made_at(site: Site) -> tuple[str, frozenset[int]]:
    """A rule and the values that are made at its places, which keep their numbers while others are rewritten."""
    made = [v for m in site.matches for n in m.ops.values() for v in m.graph.ops[n].results]
    return site.rewriting.rule, frozenset(made)
