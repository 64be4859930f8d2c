"""Layers solved for one program and taken for another cost what they cost there; and no more is kept than may be."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.joint.known_layers import KnownLayers, Layered
from planner.joint.looking import layers_of
from planner.joint.places import places_of
from planner.joint.pricing import NEAR, Pricing
from planner.joint.reduced import Reduced, reduced
from planner.layers import cluster_layers
from planner.model import Model
from planner.prepared import Work, prepare
from planner.program_index import index_program
from planner.rewrites import RULES
from planner.rewriting.program import rewritten
from planner.rewriting.sites import sites
from planner.trace import trace_program

H100 = planner.cluster("dgx-h100")


def asked(name: str, pins: Pins, cluster: Cluster = H100, **sizes: Any) -> tuple[Reduced, Pricing]:
    model = models.build(name, batch_size=16, **sizes)
    record = planner.plan(model, cluster, stages=1, pins=pins, cache=False).record
    program = trace_program(model, record.microbatches)
    whole, _ = reduced(program, layers_of(record), lambda p: prepare(p, cluster.device).layers)
    return whole, Pricing(cluster.device, pins, places_of(record, pins), Work.of(program))


@pytest.mark.parametrize(("name", "sizes", "pins"), [
    ("gpt-tiny", {"layers": 6}, Pins()), ("moe-tiny", {}, Pins()),
    ("gpt-tiny", {"layers": 6}, Pins(mesh_axes=(("a", 8),), params=(("*/up", (None, "a")),)))])
def test_known_layers_cost_what_they_cost_anew(name: str, sizes: dict[str, Any], pins: Pins) -> None:
    whole, pricing = asked(name, pins, **sizes)
    pricing.price(whole.program, whole)
    forward, priced = whole.program.forward, 0
    for rule in ("recompute_attention", "fuse_matmuls", "split_contraction", "sum_each_term", "recompute_activation"):
        for site in sites(forward, RULES[rule])[:1]:
            program = rewritten(whole.program, [site.rewriting])
            anew = replace(pricing, known=KnownLayers())
            assert pricing.price(program, whole) == anew.price(program, whole), site.rewriting
            priced += 1
    assert priced > 2
    few = replace(pricing, known=KnownLayers(most_bytes=1))
    assert few.price(whole.program, whole) == pricing.price(whole.program, whole)
    assert len(few.known) == 1 < len(pricing.known)


def kinds_of(model: Model, pins: list[dict[int, Any]], known: KnownLayers) -> tuple[object, ...]:
    index = index_program(trace_program(model, 1))
    return known.kinds(Layered(index, cluster_layers(index), H100.device), pins)


def test_layers_that_cost_something_else_are_of_another_kind() -> None:
    def model(optimizer: optax.GradientTransformation, size: int = 32) -> Model:
        def loss(params: Any, batch: Any) -> jax.Array:
            return jnp.mean((batch["x"] @ params["w"]) ** 2)

        return Model(loss, {"w": jax.ShapeDtypeStruct((size, 32), jnp.float32)},
                     {"x": jax.ShapeDtypeStruct((8, size), jnp.float32)}, optimizer, name="one")

    known = KnownLayers()
    plain = kinds_of(model(optax.sgd(0.1)), [], known)
    assert kinds_of(model(optax.sgd(0.3)), [], known) == plain
    assert kinds_of(model(optax.adam(0.1)), [], known) != plain, "more is held for its parameters"
    assert kinds_of(model(optax.sgd(0.1), 64), [], known) != plain
    param = next(iter(index_program(trace_program(model(optax.sgd(0.1)), 1)).names))
    assert kinds_of(model(optax.sgd(0.1)), [{param: ((0,), ())}], known) != plain


def test_meshes_that_are_much_worse_are_left_out() -> None:
    whole, pricing = asked("gpt-tiny", Pins(), planner.cluster("p3.16xlarge", nodes=4, devices_per_node=4), layers=6)
    near = pricing.on_near_meshes(whole.program, whole)
    prices = {m: replace(pricing, places=(replace(pricing.places[0], meshes=(m,)),)).price(whole.program, whole)
              for m in pricing.places[0].meshes}
    best = min(prices.values())
    assert near.places[0].meshes == tuple(m for m, p in prices.items() if p.seconds <= NEAR * best.seconds)
    assert 0 < len(near.places[0].meshes) < len(prices)
    assert near.price(whole.program, whole) == pricing.price(whole.program, whole)
