"""Halos: who may be cut, and what exchanging slices costs."""

import jax
import numpy as np
import optax
import pytest

from planner.costs.collectives import permute_s
from planner.costs.compute import memory_s
from planner.intraop.halos import exchanges, halo_costs, halo_working
from planner.intraop.price import PricedLayer, price_layer
from planner.intraop.setting import Setting
from planner.intraop.structure import layer_model
from planner.model import Model
from planner.program_index import ProgramIndex, index_program
from planner.rules import rule_of
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, struct

ROWS, FEATURES, WINDOW = 32, 4, 5


def convolved(batch: int) -> tuple[ProgramIndex, PricedLayer]:
    """One convolution of squares on eight devices, everything allowed."""
    def loss(params, batch):
        y = jax.lax.conv_general_dilated(batch["x"], params, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y**2).mean()

    model = Model(loss, struct(WINDOW, WINDOW, FEATURES, FEATURES), {"x": struct(batch, ROWS, ROWS, FEATURES)},
                  optax.sgd(0.1), name="convolved")
    index = index_program(program(model, 1))
    last = max(op.origin for op in index.program.micro.ops)
    return index, price_layer(index, layer_model(index, 0, last), Setting(mesh(8), DGX.device, (AxisUse.ANY,), 1, True))


def convolution(index: ProgramIndex, layer: PricedLayer) -> int:
    """The group that holds it."""
    ops = index.program.micro.ops
    return next(g for g, group in enumerate(layer.model.groups)
                if any(ops[n].primitive == "conv_general_dilated" for n in group.ops))


def test_shards_are_at_least_as_long_as_halos():
    index, _ = convolved(1)
    op = next(op for op in index.program.micro.ops if op.primitive == "conv_general_dilated")
    rule = rule_of(index.program.micro, op)
    (halo,) = rule.halos
    size = rule.factors[rule.operands[halo.operand][halo.dimension] or 0].size
    assert (halo.before, halo.after) == (2, 2) and ROWS // size == 2


@pytest.mark.parametrize(("batch", "cut"), [(1, True), (4, True), (8, False)])
def test_rows_are_cut_only_where_the_batch_is_too_small(batch, cut):
    index, layer = convolved(batch)
    price = layer.prices[convolution(index, layer)]
    assert any((e.copied > 0).any() for e in price.exchanged) == cut


def test_an_exchange_costs_two_messages_and_a_copy():
    """A device sends two rows each way, in the forward and for the gradient of the filter; nothing reads the image's
    gradient."""
    index, layer = convolved(1)
    at = convolution(index, layer)
    found = exchanges(index, layer.model.groups[at], layer.groups[at], mesh(8))
    costs, row_bytes = halo_costs(found, (), DGX.device), ROWS * FEATURES * 4
    (cut,) = np.flatnonzero(found[0].copied)
    copied = (ROWS / 8 + 4) * row_bytes
    each = 2 * permute_s(2 * row_bytes, (0,), mesh(8)) + memory_s(2 * copied, DGX.device) + DGX.device.launch_s
    assert len(found) == 2
    for kind in ("forward_s", "backward_s"):
        assert costs[kind][cut] == pytest.approx(each) and np.count_nonzero(costs[kind]) == 1
    assert halo_working(found)[cut] == 2 * copied
    assert [message[:2] for message in found[0].messages(int(cut))] == [((0,), 2 * row_bytes)] * 2
