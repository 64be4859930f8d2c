"""Every model of the zoo: sizes say what the names say, and tiny ones compute sound losses and gradients."""

import math
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import planner
from planner import models
from planner.errors import ModelError, UnknownNameError
from planner.model import leaves_with_paths
from planner.models.table import MODELS

# What a name leaves open: base models by letter, experts that are counted apart.
STATED = {"t5-small": 60.5e6, "t5-base": 223e6, "t5-large": 738e6, "t5-3b": 2.85e9, "t5-11b": 11.3e9,
          "vit-b16": 86.6e6, "vit-l16": 304e6, "vit-h14": 632e6, "mixtral-8x7b": 46.7e9, "llama-1b": 1.24e9,
          "gpt2": 124.4e6, "gpt2-medium": 354.8e6, "gpt2-large": 774e6, "gpt2-xl": 1.558e9, "phi3-mini": 3.82e9,
          "phi3-medium": 13.96e9}
SMOOTH = {"moe-tiny": 2}  # a draw where no token stands on the edge between two experts, where the loss has a jump
UNSCANNED = ("wresnet-tiny", "unet-tiny")
BATCH_STATISTICS = ("wresnet-tiny",)
TINY = tuple(name for name in models.names() if name.endswith("-tiny"))
LARGE = tuple(name for name in models.names() if not name.endswith("-tiny"))


def size_in(name):
    number, unit = re.fullmatch(r".*-([\d.]+)([mb])", name).groups()
    return float(number) * {"m": 1e6, "b": 1e9}[unit]


@cache
def tiny(name, dtype="float32", *, scan=False):
    """A tiny model at the least depth that has every kind of layer."""
    depth = {} if name.startswith(UNSCANNED) else {"layers": 2}
    rows = 8 if name in BATCH_STATISTICS else 2  # statistics of few rows make steep gradients
    return models.build(name, batch_size=rows, dtype=dtype, scan_layers=scan, **depth)


def arguments(model, seed=0, batch_size=None):
    state = () if model.state is None else (models.init_state(model),)
    return models.init(model, seed), *state, models.random_batch(model, seed + 1, batch_size)


def loss_of(model):
    return model.fn if model.state is None else lambda *args: model.fn(*args)[0]


@cache
def compiled(fn):
    return jax.jit(fn)


@cache
def compiled_loss(name, dtype="float32", *, scan=False):
    return compiled(loss_of(tiny(name, dtype, scan=scan)))


def test_every_family_has_a_tiny_member():
    assert {name.split("-")[0] for name in LARGE} == {name.split("-")[0] for name in TINY}


@pytest.mark.parametrize("name", LARGE)
def test_number_of_parameters_is_what_the_name_says(name):
    model = models.build(name, batch_size=1)
    expected = STATED.get(name) or size_in(name)
    assert model.parameter_count == pytest.approx(expected, rel=0.01 if name in STATED else 0.065)


@pytest.mark.parametrize("name", LARGE)
def test_large_models_are_abstract_and_their_loss_traces(name):
    scan = not name.startswith(("wresnet", "unet"))
    shallow = {"layers": 14} if name.startswith("wresnet") else {}  # unrolled, and slow to trace at its full depth
    model = models.build(name, batch_size=2, scan_layers=scan, **shallow)
    leaves = jax.tree_util.tree_leaves((model.params, model.state, model.batch))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    state = () if model.state is None else (model.state,)
    out = jax.eval_shape(loss_of(model), model.params, *state, model.batch)
    assert out.shape == () and out.dtype == jnp.float32


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_learns(name):
    """A step along the gradient lowers the loss, and no parameter is left out."""
    model = tiny(name)
    params, *rest = arguments(model, seed=SMOOTH.get(name, 0))
    loss, grads = compiled(jax.value_and_grad(loss_of(model)))(params, *rest)
    params, grads = jax.tree_util.tree_map(np.asarray, (params, grads))  # JAX compiles each operator for every shape
    for path, grad in leaves_with_paths(grads):
        assert np.isfinite(grad).all() and np.any(grad != 0), path
    squares = sum(float(np.sum(g * g)) for g in jax.tree_util.tree_leaves(grads))
    step = 1e-4 / math.sqrt(squares)
    moved = jax.tree_util.tree_map(lambda p, g: p - step * g, params, grads)
    after = compiled_loss(name)(moved, *rest)
    assert float(loss - after) == pytest.approx(1e-4 * math.sqrt(squares), rel=0.1)


@pytest.mark.parametrize("name", [name for name in TINY if name not in BATCH_STATISTICS])
def test_microbatches_average_to_the_batch(name):
    """What planning over microbatches rests on; mixtures of experts must not gate tokens across the batch."""
    params, batch = arguments(tiny(name), batch_size=4)
    fn = compiled_loss(name)
    halves = [jax.tree_util.tree_map(lambda x, s=s: x[s], batch) for s in (slice(2), slice(2, 4))]
    assert float(fn(params, batch)) == pytest.approx(np.mean([fn(params, half) for half in halves]), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name not in UNSCANNED])
def test_scanned_layers_compute_the_same(name):
    params, batch = arguments(tiny(name))
    assert tiny(name, scan=True).parameter_count == tiny(name).parameter_count
    scanned = compiled_loss(name, scan=True)(stack(params), batch)
    assert float(scanned) == pytest.approx(float(compiled_loss(name)(params, batch)), rel=1e-5)


def stack(tree):
    """Lists of equal layers become one layer with a leading dimension."""
    if isinstance(tree, list):
        return jax.tree_util.tree_map(lambda *rows: jnp.stack(rows), *tree)
    return {key: stack(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


@pytest.mark.parametrize(("name", "dtype"), [
    *((name, "bfloat16") for name in TINY), *((name, "float16") for name in ("gpt-tiny", "moe-tiny", "wresnet-tiny"))])
def test_half_precision_is_close_to_float32(name, dtype):
    exact, rounded = (compiled_loss(name, d)(*arguments(tiny(name))) for d in ("float32", dtype))
    assert rounded.dtype == jnp.float32
    assert float(exact) != float(rounded), f"nothing was computed in {dtype}"
    assert float(rounded) == pytest.approx(float(exact), rel=0.02)  # 8 bits of mantissa, some tens of roundings


def test_a_v100_is_fast_in_float16_alone():
    """125 TFLOP/s in its tensor cores, 15.7 elsewhere: bfloat16 gains nothing over float32 but memory traffic."""
    v100 = planner.cluster("p3.16xlarge", devices_per_node=1)
    plans = {d: planner.plan(models.build("gpt-125m", batch_size=4, layers=1, dtype=d), v100, microbatches=1)
             for d in ("float16", "bfloat16")}
    assert {d: p.record.compute_dtype for d, p in plans.items()} == {d: d for d in plans}
    compute = {d: p.stages[0].time.compute_s for d, p in plans.items()}
    assert compute["bfloat16"] > 2 * compute["float16"]
    assert plans["float16"].memory == plans["bfloat16"].memory


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith(("gpt", "moe", "llama", "mixtral", "t5"))])
def test_a_position_sees_no_later_one(name):
    # With room for every token: where an expert is full, GShard's second choices give way to all first choices.
    room = {"capacity_factor": 4.0} if name.startswith(("moe", "mixtral")) else {}
    model = models.build(name, batch_size=1, dtype="float32", inference=True, layers=2, **room)
    params, batch = arguments(model)
    changed = batch | {"tokens": batch["tokens"].at[:, -1].add(1) % 256}
    fn = compiled(model.fn)
    before, after = fn(params, batch), fn(params, changed)
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert np.any(before[:, -1] != after[:, -1])


def test_same_seed_same_numbers():
    model = models.build("gpt-tiny", batch_size=2)
    for make in (models.init, models.random_batch):
        first, again, other = make(model, 7), make(model, 7), make(model, 8)
        assert all(map(np.array_equal, *map(jax.tree_util.tree_leaves, (first, again))))
        assert not all(map(np.array_equal, *map(jax.tree_util.tree_leaves, (first, other))))


def test_init_makes_what_build_declares():
    for name in TINY:
        model = models.build(name, batch_size=2)
        for real, declared in ((models.init(name), model.params), (models.random_batch(model), model.batch),
                               (models.init_state(name), model.state)):
            signature = [[(path, leaf.shape, leaf.dtype) for path, leaf in leaves_with_paths(tree)]
                         for tree in (real, declared)]
            assert signature[0] == signature[1], name


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match=r"did you mean .*gpt-2\.6b"):
        models.build("gpt-2.6", batch_size=8)


@pytest.mark.parametrize(("settings", "message"), [
    ({"batch_size": 0}, "batch size"), ({"batch_size": 1, "dtype": "float8"}, "choose bfloat16 or float16 or float32"),
    ({"batch_size": 1, "lairs": 3}, "no setting 'lairs'"),
])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        models.build("gpt-tiny", **settings)


@pytest.mark.parametrize("name", UNSCANNED)
def test_uneven_layers_can_not_be_scanned(name):
    with pytest.raises(ModelError, match="can't be scanned"):
        models.build(name, batch_size=1, scan_layers=True)


def test_the_table_holds_networks_of_every_name():
    assert set(MODELS) == set(models.names())
