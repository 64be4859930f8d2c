"""Plans of rewritten models train as the models do on one device: each family of the zoo, in one program and pipelined.

Rewrites drawn at random, and those that a search finds; losses, gradients, parameters and state of some steps agree
within the tolerances of `planner.check`, whose run on one device knows of no rewrites. One case stands for all in the
default run.
"""

from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax
import pytest

import planner
from planner import models
from planner.model import Model
from planner.rewrites import RULES
from planner.rewriting.sites import sites
from planner.rewriting.splice import replaced
from planner.trace.program import trace_program

STEPS = 3

SEVERAL = 8
"""Rewrites drawn. [chosen: more than are ever found, so that several meet]"""

MODELS: MappingProxyType[str, dict[str, Any]] = MappingProxyType({  # the least depth that two stages can share
    "mlp-tiny": {"layers": 3}, "lstm-tiny": {}, "gpt-tiny": {"layers": 2}, "moe-tiny": {"layers": 2},
    "gpt2-tiny": {"layers": 2}, "llama-tiny": {"layers": 2}, "phi3-tiny": {"layers": 2}, "mixtral-tiny": {"layers": 2},
    "t5-tiny": {"layers": 1}, "vit-tiny": {"layers": 2}, "unet-tiny": {},
    "wresnet-tiny": {"optimizer": optax.sgd(0.01, momentum=0.9)},  # as in `test_zoo_runs.py`
})

WAYS: MappingProxyType[str, dict[str, Any]] = MappingProxyType({
    "drawn": {}, "joint": {"rewrite": "joint", "allow": ("*",), "budget_s": 40.0},
    "first": {"rewrite": "first", "allow": ("*",), "budget_s": 40.0},
})

QUICK = ("mlp-tiny", "drawn", 2)


@pytest.mark.parametrize(("name", "way", "stages"), [
    pytest.param(name, way, stages, marks=() if (name, way, stages) == QUICK else (pytest.mark.slow,))
    for name in MODELS for way in WAYS for stages in (1, 2)])
def test_a_rewritten_model_trains_as_on_one_device(name: str, way: str, stages: int) -> None:
    model = models.build(name, batch_size=16, dtype="float32", **MODELS[name])
    pins = {**WAYS[way], "stages": stages, "microbatches": 4 if stages > 1 else None}
    if way == "drawn":
        pins["rewrites"] = drawn(model, pins["microbatches"] or 1)
    plan = planner.plan(model, planner.cluster("cpu-8"), cache=False, **pins)
    assert len(plan.stages) == stages
    if way == "drawn":
        assert tuple((r.rewriting.rule, r.rewriting.at) for r in plan.record.rewrites) == pins["rewrites"]
    report = plan.check(model, jax.devices(), steps=STEPS)
    assert report.passed, f"{plan!r}\n{report}"


def drawn(model: Model, microbatches: int) -> tuple[tuple[str, str], ...]:
    """Rewrites drawn one after the other, a rule and then one of its places."""
    rng, graph = np.random.default_rng(list(model.name.encode())), trace_program(model, microbatches).forward
    found: list[tuple[str, str]] = []
    while len(found) < SEVERAL:
        there = {rule: s for rule in RULES if (s := sites(graph, RULES[rule]))}
        rule = list(there)[rng.integers(len(there))]
        site = there[rule][rng.integers(len(there[rule]))]
        graph = replaced(graph, RULES[rule], site.matches)
        found.append((site.rewriting.rule, site.rewriting.at))
    return tuple(found)
