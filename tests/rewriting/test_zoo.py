"""Every rule at every place of small models makes a sound graph, and rewritten models compute the same."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from planner import models
from planner.core.graph import Graph, Role
from planner.model import leaves_with_paths
from planner.rewrites import RULES
from planner.rewriting.prove import Case, differences, weights_of
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced
from planner.trace.program import split_params, trace_program

MODELS = {"gpt-tiny": {"layers": 1}, "llama-tiny": {"layers": 1}, "moe-tiny": {"layers": 2}, "unet-tiny": {}}

TOLERANCE = 2e-4
"""Of the largest element. [chosen: float32 rounds to 6e-8, and gradients sum some thousand terms, layer after layer]"""

TOGETHER = 6
"""Rules applied one after the other to the model that is evaluated. [chosen: several meet, and it takes seconds]"""

FEW = 40
"""Places of a model at most per rule: each is priced by a search."""


@cache
def traced(name: str) -> tuple[Graph, tuple[Any, ...]]:
    """The forward graph of a model in float32, and arrays for its inputs."""
    model = models.build(name, batch_size=4, dtype="float32", **MODELS[name])
    program = trace_program(model)
    params = iter(split_params(program, models.init(model)))
    rest = {(role, path): leaf for role, tree in ((Role.STATE, models.init_state(model)),
                                                  (Role.BATCH, models.random_batch(model)))
            for path, leaf in leaves_with_paths(tree)}
    arrays = tuple(np.asarray(next(params) if i.role is Role.PARAM else rest[i.role, i.path])
                   for i in program.forward.inputs)
    return program.forward, arrays


@pytest.mark.parametrize("name", list(MODELS))
def test_every_place_of_a_model_can_be_rewritten(name: str) -> None:
    graph, _ = traced(name)
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


@pytest.mark.parametrize("name", ["gpt-tiny", "llama-tiny", "moe-tiny"])
def test_a_model_rewritten_at_random_computes_the_same(name: str) -> None:
    graph, arrays = traced(name)
    rng = np.random.default_rng(len(name))
    after, applied = graph, 0
    for rule in rng.permutation(list(RULES)):
        found: list[Site] = sites(after, RULES[rule])
        if found and applied < TOGETHER:
            after = replaced(after, RULES[rule], found[rng.integers(len(found))].matches)
            applied += 1
    assert applied >= 3
    ((off,),) = differences([Case(graph, (after,), arrays, weights_of(graph, rng))])
    assert off < TOLERANCE
