"""What a group of operators costs: convolutions by kind, and all-reduces that the compiler merges."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner import models
from planner.core.hardware import ConvolutionRates, Device
from planner.intraop.group_price import GroupPrice
from planner.intraop.param_costs import update_bytes, update_kernels
from planner.intraop.price import price_layer
from planner.intraop.relayout import relaid
from planner.intraop.setting import Setting
from planner.intraop.structure import layer_model
from planner.model import Model
from planner.program_index import index_program
from planner.strategies import AxisUse
from tests.intraop.programs import DGX, mesh, program, struct


def prices(model: Model, device: Device, *, merges: bool = False) -> tuple[GroupPrice, ...]:
    """All groups of the model as one data-parallel layer over two devices."""
    index = index_program(program(model, 1))
    on = dataclasses.replace(mesh(2), merges_all_reduces=merges)
    setting = Setting(on, device, (AxisUse.BATCH,), 1, True)
    last = max(op.origin for op in index.program.micro.ops)
    return price_layer(index, layer_model(index, 0, last), setting).prices


def total(found: tuple[GroupPrice, ...], kind: str) -> float:
    return float(sum(np.min(p.costs[kind]) for p in found))


def convolved() -> Model:
    def loss(params, batch):
        x = batch["x"]
        for w in params:
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(x**2)

    return Model(loss, [struct(3, 3, 64, 64), struct(3, 3, 64, 64)], {"x": struct(64, 32, 32, 64)}, optax.sgd(0.1),
                 name="convolved")


@pytest.mark.parametrize(("slow", "forward", "backward"), [
    # Two forward, one gradient of an input (the batch needs none), two of filters.
    (ConvolutionRates(0.01, 1, 1, 1), 2, 0), (ConvolutionRates(1, 0.01, 1, 1), 0, 1),
    (ConvolutionRates(1, 1, 0.01, 1), 0, 2), (ConvolutionRates(1, 1, 1, 6400), 2, 3)])
def test_each_kind_of_convolution_has_its_rate(slow: ConvolutionRates, forward: int, backward: int) -> None:
    plain = dataclasses.replace(DGX.device, peak_flops_per_s=(("default", 1e9),))
    usual, slowed = (prices(convolved(), d) for d in (plain, dataclasses.replace(plain, convolutions=slow)))
    one = total(usual, "forward_s") / 2
    assert total(slowed, "forward_s") - total(usual, "forward_s") == pytest.approx(99 * forward * one, rel=0.05)
    assert total(slowed, "backward_s") - total(usual, "backward_s") == pytest.approx(99 * backward * one, rel=0.1)


def products(contracted: str) -> Model:
    """One product of two parameters that a batch scales, spelled as an einsum."""
    def loss(params, batch):
        return jnp.mean(jnp.einsum(contracted, params[0] * batch["x"][0, 0], params[1]))

    return Model(loss, [struct(2, 256, 4, 64), struct(2, 64, 4, 256)], {"x": struct(8, 1)}, optax.sgd(0.1), name="p")


def test_copies_around_products_cost_what_they_read_and_write() -> None:
    """Heads (h) lead neither side of a batched product; both are copied, in the forward at least."""
    slow = dataclasses.replace(DGX.device, relayout=1000.0)
    model = products("bqhd,bdhk->bhqk")
    before, after = (total(prices(model, d), "forward_s") for d in (DGX.device, slow))
    plain_s = 2 * (2 * 256 * 4 * 64 * 4) / DGX.device.memory_bandwidth_bytes_per_s
    assert after - before == pytest.approx(2 * 1000 * plain_s, rel=0.05)


def test_operands_in_no_cache_come_on_top_of_arithmetic() -> None:
    """The right side is a parameter, 2 · 64 · 4 · 256 floats; the left was just made, and the result is never read
    again. In the backward the left side has left the caches as well; gradients are transposed before they last."""
    slow = dataclasses.replace(DGX.device, peak_flops_per_s=(("default", 1e9),), launch_s=0.0)
    exposed = dataclasses.replace(slow, exposed_traffic=0.5)
    before, after = (prices(products("bqhd,bdhk->bhqk"), d) for d in (slow, exposed))
    side_s = 2 * 64 * 4 * 256 * 4 / DGX.device.memory_bandwidth_bytes_per_s
    forward = total(after, "forward_s") - total(before, "forward_s")
    backward = total(after, "backward_s") - total(before, "backward_s")
    assert forward == pytest.approx(0.5 * side_s, rel=1e-3)
    assert backward == pytest.approx(0.5 * 2 * side_s, rel=1e-3)


@pytest.mark.parametrize(("left", "right", "contracted", "batch", "copied"), [
    ((8, 16), (16, 4), ((1,), (0,)), ((), ()), ()),  # rows by columns
    ((8, 16), (4, 16), ((1,), (1,)), ((), ()), ()),  # the right side is taken as it is
    ((16, 8), (16, 4), ((0,), (0,)), ((), ()), (1,)),  # the gradient of a weight: the smaller side
    ((2, 8, 16), (2, 16, 4), ((2,), (1,)), ((0,), (0,)), ()),
    ((8, 2, 16), (2, 16, 4), ((2,), (1,)), ((1,), (0,)), (0,)),
])
def test_operands_are_copied_where_kernels_need_rows_by_columns(left, right, contracted, batch, copied) -> None:
    def fn(params, batch_):
        return jax.lax.dot_general(params[0], params[1], (contracted, batch)).sum() + batch_["x"].sum()

    model = Model(fn, [struct(*left), struct(*right)], {"x": struct(2)}, None, name="product")
    graph = program(model, 1).micro
    n = next(n for n, op in enumerate(graph.ops) if op.primitive == "dot_general")
    assert relaid(graph, [n]) == tuple(graph.ops[n].inputs[side] for side in copied)


def test_of_all_reduces_that_do_not_wait_for_each_other_one_pays_for_the_start() -> None:
    model = models.build("wresnet-tiny", batch_size=16)
    alone, merged = (prices(model, DGX.device, merges=flag) for flag in (False, True))
    for a, m in zip(alone, merged, strict=True):
        assert len(a.settled) == len(m.settled)
        for one, other in zip(a.settled, m.settled, strict=True):
            assert np.all(other.seconds <= one.seconds)
    # Mean and mean of squares of every normalisation.
    assert total(merged, "forward_s") < total(alone, "forward_s")
    first = [p.settled[0] for p in merged if p.settled]
    assert first and all(np.all(s.seconds[s.mask != 0] >= DGX.intra_node.latency_s) for s in first)


def test_new_state_goes_back_to_every_device() -> None:
    index = index_program(program(models.build("wresnet-tiny", batch_size=16), 1))
    setting = Setting(mesh(2), DGX.device, (AxisUse.TENSOR,), 1, True)
    last = max(op.origin for op in index.program.micro.ops)
    found = price_layer(index, layer_model(index, 0, last), setting).prices
    leaves = len(jax.tree.leaves(models.build("wresnet-tiny", batch_size=16).state))
    assert sum(len(p.handed_back) for p in found) == leaves


def test_an_update_reads_again_where_every_result_has_its_kernel() -> None:
    """Adam of a parameter of 4 bytes: p, m, v read and written and g read, 7 numbers; in three kernels m and g make m,
    v and g make v, p, m and v make p: 3 + 3 + 4. Without state p and g make p."""
    own = dataclasses.replace(DGX.device, kernel_per_result=True)
    assert (update_bytes(4, 8, DGX.device), update_bytes(4, 8, own)) == (7 * 4, 10 * 4)
    assert update_bytes(4, 0, DGX.device) == update_bytes(4, 0, own) == 3 * 4
    assert (update_kernels(4, 8, own), update_kernels(4, 0, own), update_kernels(4, 8, DGX.device)) == (3, 1, 0)


def test_a_kernel_for_each_result_starts_as_often() -> None:
    """A wide product's result goes through a chain of operators that the backward reads in two places."""
    def loss(params, batch):
        x = jnp.tanh(batch["x"] @ params)
        return jnp.mean(jnp.exp(x) * x)

    model = Model(loss, struct(64, 64), {"x": struct(32, 64)}, optax.sgd(0.1), name="chain")
    slow = dataclasses.replace(DGX.device, launch_s=1.0)
    own = dataclasses.replace(slow, kernel_per_result=True)
    one, many = (total(prices(model, d), "forward_s") for d in (slow, own))
    # The product; a kernel and the sum's, or those of tanh, exp and the sum.
    assert (round(one), round(many)) == (3, 4)


def moved(fn: Callable[[jax.Array], object], *, each: bool) -> float:
    """Numbers of 4 bytes that the forward kernels of a function of 8 rows of 16 numbers move on one device, products
    aside; `each`: whether every result has a kernel of its own."""
    slow = dataclasses.replace(DGX.device, memory_bandwidth_bytes_per_s=1.0, launch_s=0.0, kernel_per_result=each,
                               peak_flops_per_s=(("default", 1e30),))
    model = Model(lambda params, batch: fn(batch["x"] + params), struct(16), {"x": struct(8, 16)}, None, name="passes")
    index = index_program(program(model, 1))
    last = max(op.origin for op in index.program.micro.ops)
    setting = Setting(mesh(1), slow, (AxisUse.NONE,), 1, False)
    found = price_layer(index, layer_model(index, 0, last + 1), setting).prices
    products = [n for n, op in enumerate(index.program.micro.ops) if op.primitive == "dot_general"]
    return (total(found, "forward_s") - sum(float(np.min(p.kernels_s(products))) for p in found)) / 4


def test_every_kernel_reads_what_it_needs_again() -> None:
    """A softmax of 128 numbers in 8 rows, with a bias of 16 added to what it reads: the largest (in: 128 + 16, out: 8),
    the exponentials, which two others read (144 + 8, 128), their sum (128, 8), and the result (128 + 8, 128)."""
    def softmax(x: jax.Array) -> jax.Array:
        e = jnp.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    assert moved(softmax, each=False) == 144 + 128
    assert moved(softmax, each=True) == (144 + 8) + (144 + 8 + 128) + (128 + 8) + (128 + 8 + 128)


def test_what_other_groups_read_is_written_and_what_is_cheap_is_made_again() -> None:
    """Sums with a bias are read by a product, as a view, and by a reduction: written once (144 + 128), the reduction
    reads them (128 + 1). Without the product they are made where they are reduced (144 + 1), to be squared as well."""
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x.reshape(4, 32) @ jnp.ones((32, 2)), x.sum()

    assert moved(both, each=True) == (144 + 128) + (128 + 1)
    assert moved(lambda x: x.sum(), each=True) == 144 + 1
    assert moved(lambda x: (x.sum(), (x * x).sum()), each=True) == 2 * (144 + 1)
    assert moved(lambda x: (x.sum(), (x * x).sum()), each=False) == 144 + 2
