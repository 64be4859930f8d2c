"""Elimination over a layer against independent solvers, and its bounds."""

import numpy as np
import pytest

from planner.core.problem import Status, evaluate
from planner.core.recomputation import Recompute
from planner.intraop.as_problem import as_problem
from planner.intraop.boundary import boundary
from planner.intraop.price import PricedLayer, price_layer
from planner.intraop.setting import Setting
from planner.intraop.solved_layer import layer_frontier
from planner.intraop.structure import layer_model
from planner.intraop.variants import Multipliers
from planner.layers import cluster_layers
from planner.program_index import index_program
from planner.solvers import solve
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, mlp, program, transformer

FREE = Multipliers((0.0,), (1,), (Recompute.NONE,))


def priced(model, shape, layer=0, microbatches=1, uses=None):
    traced = program(model, microbatches)
    index = index_program(traced)
    first, last = cluster_layers(index).ranges[layer]
    uses = uses or (AxisUse.ANY,) * len(shape)
    setting = Setting(mesh(*shape), DGX.device, uses, microbatches, True)
    return index, first, last, price_layer(index, layer_model(index, first, last), setting)


def solved(index, first, last, layer: PricedLayer, prices=FREE):
    shape = layer.setting.mesh.shape
    sides = [boundary(index, at, shape, layer.setting.uses, {}) for at in (first, last)]
    return layer_frontier(index.program.micro, layer, *sides, prices)


@pytest.mark.parametrize(("model", "shape", "layer"), [
    (mlp(), (2,), 0), (mlp(), (2, 2), 0), (transformer(), (2,), 1), (transformer(), (8,), 1),
    pytest.param(transformer(), (2, 2), 1, marks=pytest.mark.slow),
])
def test_elimination_finds_what_cp_sat_proves(model, shape, layer):
    index, first, last, costs = priced(model, shape, layer)
    frontier = solved(index, first, last, costs)
    answer = solve(as_problem(costs, None), timeout_s=15, solver="cpsat")
    assert answer.cost is not None
    found, rounding = float(frontier.priced.min()) * 1e9, len(costs.unary) + len(costs.edges)  # nanoseconds
    assert answer.bound - rounding <= found <= answer.cost + rounding  # equal where CP-SAT finishes its proof in time
    if answer.status is Status.OPTIMAL:
        assert found == pytest.approx(answer.cost, rel=1e-4, abs=rounding)


def test_a_choice_costs_what_the_frontier_says():
    index, first, last, costs = priced(transformer(), (2, 2), 1)
    frontier = solved(index, first, last, costs)
    problem = as_problem(costs, None)
    for state in ((0, 0), (3, 3), (1, 2)):
        if np.isfinite(frontier.priced[0, *state]):
            choice = frontier.choice(0, *state)
            extra = [int(choice[a]) * len_of(costs, b) + int(choice[b]) for a, b in pair_nodes(costs)]
            cost = evaluate(problem, (*map(int, choice), *extra)).cost
            assert cost == pytest.approx(frontier.priced[0, *state] * 1e9, rel=1e-6, abs=len(problem.nodes))


def len_of(costs, variable):
    from planner.intraop.frontier import len_of as count

    return count(costs, variable)


def pair_nodes(costs):
    """Links whose memory depends on both sides become a node of their own in `as_problem`, in order."""
    for key, kinds in costs.edges.items():
        held = kinds.get("resident_bytes", 0) + kinds.get("saved_bytes", 0)
        if isinstance(held, np.ndarray) and not (held == held[:1]).all() and not (held == held[:, :1]).all():
            yield key


def test_memory_prices_bound_the_limited_optimum_from_below():
    """λ · (memory - limit) <= 0 for every plan within the limit, so priced optimum - λ · limit is below its time."""
    index, first, last, costs = priced(mlp(), (2, 2), 0)
    free = solved(index, first, last, costs)
    most = float(free.parts[..., 3:5].sum(-1)[np.unravel_index(free.priced.argmin(), free.priced.shape)])
    base = float(free.priced.min())
    prices = Multipliers(tuple(base / most * s for s in (0.0, 0.1, 1.0, 10.0)), (1,) * 4, (Recompute.NONE,) * 4)
    frontier = solved(index, first, last, costs, prices)
    for share in (0.9, 0.7, 0.5):
        limit = int(most * share)
        answer = solve(as_problem(costs, limit), timeout_s=60, solver="cpsat")
        bound = max(frontier.priced[g].min() - prices.per_byte_s[g] * limit for g in range(4)) * 1e9
        if answer.status is Status.OPTIMAL:
            assert answer.cost is not None
            assert bound <= answer.cost + len(costs.unary)
            fits = frontier.parts[..., 3:5].sum(-1) <= limit
            if fits.any():
                time = frontier.parts[..., :3].sum(-1)[fits].min() * 1e9
                assert time >= answer.cost - len(costs.unary)


def test_recomputing_saves_memory_and_costs_time():
    index, first, last, costs = priced(transformer(), (2,), 1)
    frontier = solved(index, first, last, costs, Multipliers((0.0, 0.0), (1, 1), (Recompute.NONE, Recompute.ALL)))
    at = (0, *np.unravel_index(frontier.priced[0].argmin(), frontier.priced[0].shape))
    again = (1, *np.unravel_index(frontier.priced[1].argmin(), frontier.priced[1].shape))
    assert frontier.parts[again][4] < 0.5 * frontier.parts[at][4]
    assert frontier.priced[again] > frontier.priced[at]


def test_a_data_recipe_replicates_parameters_and_shards_the_batch():
    index, first, last, costs = priced(transformer(), (8,), 1, uses=(AxisUse.BATCH,))
    assert all(len(p) == 1 for p in costs.params)
    assert all(spec[1:] == ((),) * (len(spec) - 1) for specs in costs.tensors for spec in specs)
    assert np.isfinite(solved(index, first, last, costs).priced).any()


def test_fsdp_shards_every_parameter_that_divides():
    _, _, _, costs = priced(transformer(), (8,), 1, uses=(AxisUse.FSDP,))
    assert all((p.stored.table >= 0).all() for p in costs.params)


def test_deferred_gradients_are_synchronised_once_per_batch():
    _, _, _, once = priced(mlp(), (8,), 0, microbatches=8, uses=(AxisUse.BATCH,))
    choices = once.params[0]
    assert sorted(choices.deferred) == [False, True]
    link = next(costs for key, costs in once.edges.items() if key[1] == once.param_variable(0))
    late, early = link["batch_s"][:, choices.deferred], link["backward_s"][:, ~choices.deferred]
    assert late.max() > 0 and early.max() > 0
    assert link["batch_s"][:, ~choices.deferred].max() == 0
