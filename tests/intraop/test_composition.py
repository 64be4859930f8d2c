"""Slices composed layer by layer against the whole slice as one problem, solved by a solver that knows no layers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner import models
from planner.core.pins import Pins
from planner.core.problem import Status
from planner.intraop.compose import SliceTable
from planner.intraop.slice_choice import table_choice
from planner.intraop.stage_as_problem import StageLayer, stage_as_problem
from planner.mesh_tables import mesh_table
from planner.model import Model
from planner.prepared import Prepared, prepare
from planner.solvers import solve
from planner.spaces import MeshSpace
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, struct

ROOMY = replace(DGX, device=replace(DGX.device, memory_bytes=1 << 44))
"""Memory has no price there, so that time alone is minimised."""

MICROBATCHES = 2


def random_chain(seed: int) -> Model:
    """A multilayer perceptron of random widths, with random activations, residuals and norms."""
    rng = np.random.default_rng(seed)
    widths = [int(w) for w in rng.choice([32, 48, 64, 96, 128], size=rng.integers(4, 8))]
    kinds = [tuple(rng.integers(0, 3, size=2)) for _ in widths[1:]]

    def loss(params, batch):
        x = batch["x"]
        for w, (activation, extra) in zip(params, kinds, strict=True):
            y = x @ w
            y = (jax.nn.relu, jnp.tanh, lambda z: z)[activation](y)
            if extra == 1 and y.shape == x.shape:
                y = y + x
            x = y - y.mean(-1, keepdims=True) if extra == 2 else y
        return jnp.mean(x ** 2)

    params = [struct(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
    return Model(loss, params, {"x": struct(32, widths[0])}, optax.adam(1e-3), name=f"chain {seed}")


def table(model: Model, shape: tuple[int, ...]) -> tuple[SliceTable, Prepared]:
    prepared = prepare(program(model, MICROBATCHES), ROOMY.device)
    names = ("x", "y")[:len(shape)]
    return mesh_table(prepared, MeshSpace(mesh(*shape), names, (AxisUse.ANY,) * len(shape)), ROOMY, Pins()), prepared


def composed_and_whole(t: SliceTable, prepared: Prepared, first: int, last: int) -> tuple[float, float, int]:
    """Nanoseconds of a step: as composed, as the optimum of one problem; and nodes and edges of that, which round."""
    at, choice = t.of(first, last), table_choice(t, first, last, 0)
    layers = [StageLayer(s.frontier.layer, s.frontier.before, s.frontier.after, s.way) for s in choice.steps]
    made = stage_as_problem(prepared.program.micro, layers, 1, None)
    found = solve(made.problem, timeout_s=60)
    assert found.status is Status.OPTIMAL and found.cost is not None
    return float(t.bound([0])[at, 0]) * 1e9, float(found.cost), len(made.problem.nodes) + len(made.problem.edges)


@pytest.mark.parametrize("seed", range(8))
def test_composing_a_random_chain_is_solving_it_whole(seed: int):
    t, prepared = table(random_chain(seed), ((2,), (4,), (2, 2))[seed % 3])
    count, rng = len(prepared.layers), np.random.default_rng(seed)
    assert len(t.variants) == 1 and t.exact
    first = int(rng.integers(0, count))
    for ends in {(0, count - 1), (first, int(rng.integers(first, count)))}:
        composed, whole, rounding = composed_and_whole(t, prepared, *ends)
        assert composed == pytest.approx(whole, abs=rounding)


@pytest.mark.parametrize("name", ["gpt-tiny", "llama-tiny", "moe-tiny", "wresnet-tiny", "vit-tiny"])
def test_composing_layers_of_the_zoo_is_solving_them_whole(name: str):
    t, prepared = table(models.build(name, batch_size=16), (4,))
    middle = len(prepared.layers) // 2
    composed, whole, _ = composed_and_whole(t, prepared, middle - 1, middle)
    assert composed == pytest.approx(whole, rel=0.01)
