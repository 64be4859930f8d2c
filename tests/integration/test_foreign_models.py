"""Models as a user brings them, unlike any of the zoo: planned, saved, loaded, run as one device would.

A graph network (gather, segment sum and maximum: scatters with repeated indices; SGD with momentum), a selective state
space model (associative scan, depthwise convolution, tied embedding; Lion), and a Perceiver-like reader of images
(convolution, pooling, cross-attention, an LSTM under scan; Adafactor, whose state is shaped unlike its parameters).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import planner
from planner.model import Model

ROWS = 8


def arrays(seed):
    """Draws normal arrays of a shape, scaled by their fan-in."""
    rng = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1),
                                      jnp.float32)


def integers(seed, limit, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, limit, shape), jnp.int32)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def graph_network():
    nodes, edges, width = 12, 32, 16

    def one(params, graph):
        x = graph["x"] @ params["in"]
        for p in params["layers"]:
            sent = jax.nn.relu(x[graph["from"]] @ p["message"])
            total = jax.ops.segment_sum(sent, graph["to"], num_segments=nodes)
            most = jax.ops.segment_max(sent, graph["to"], num_segments=nodes)
            x = jax.nn.relu(x @ p["self"] + total @ p["sum"] + jnp.where(jnp.isfinite(most), most, 0.0) @ p["max"])
        return x.mean(0) @ params["out"]

    def loss(params, batch):
        return cross_entropy(jax.vmap(one, (None, 0))(params, batch["graph"]), batch["label"])

    draw = arrays(0)
    params = {"in": draw(4, width), "out": draw(width, 3), "layers": [
        {name: draw(width, width) for name in ("message", "self", "sum", "max")} for _ in range(2)]}
    graph = {"x": draw(ROWS, nodes, 4), "from": integers(1, nodes, ROWS, edges), "to": integers(2, nodes, ROWS, edges)}
    return Model(loss, params, {"graph": graph, "label": integers(3, 3, ROWS)},
                 optimizer=optax.sgd(1e-2, momentum=0.9, nesterov=True), name="graph network")


def state_space():
    length, width, states, vocabulary = 4, 16, 4, 20

    def mixed(p, u):
        """h_t = exp(-a dt) h_{t-1} + dt b u, read by c: all t at once."""
        b, c = jnp.split(u @ p["bc"], 2, -1)
        dt = jax.nn.softplus(u * p["dt"])[..., None]
        keep, new = jnp.exp(-jnp.exp(p["a"]) * dt), dt * b[:, :, None, :] * u[..., None]
        _, h = jax.lax.associative_scan(lambda x, y: (x[0] * y[0], x[1] * y[0] + y[1]), (keep, new), axis=1)
        return jnp.einsum("tlds,tls->tld", h, c)

    def block(p, x):
        u = jnp.pad(x @ p["in"], ((0, 0), (2, 0), (0, 0)))
        u = jax.lax.conv_general_dilated(u, p["conv"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"),
                                         feature_group_count=width)
        return x + mixed(p, jax.nn.silu(u)) @ p["out"]

    def loss(params, batch):
        x = params["embed"][batch["tokens"]]
        for p in params["blocks"]:
            x = block(p, x)
        return cross_entropy(x @ params["embed"].T, batch["next"])

    draw = arrays(4)
    blocks = [{"in": draw(width, width), "out": draw(width, width), "bc": draw(width, 2 * states), "dt": draw(width),
               "a": draw(width, states), "conv": draw(3, 1, width)} for _ in range(2)]
    batch = {"tokens": integers(5, vocabulary, ROWS, length), "next": integers(6, vocabulary, ROWS, length)}
    return Model(loss, {"embed": draw(vocabulary, width), "blocks": blocks}, batch, optimizer=optax.lion(1e-3),
                 name="state space")


def perceiver():
    width, latents, heads = 16, 4, 2

    def attend(p, x, read):
        def split(t):
            return t.reshape(*t.shape[:2], heads, -1)
        mixed = jax.nn.dot_product_attention(split(x @ p["q"]), split(read @ p["k"]), split(read @ p["v"]))
        return x + mixed.reshape(x.shape) @ p["o"]

    def cell(p, carry, x):
        i, f, o, u = jnp.split(jnp.concatenate([x, carry[0]], -1) @ p, 4, -1)
        c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(u)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    def loss(params, batch):
        x = jax.lax.conv_general_dilated(batch["image"], params["stem"], (1, 1), "SAME",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        x = x.reshape(x.shape[0], -1, width)
        z = jnp.broadcast_to(params["latents"], (x.shape[0], latents, width))
        for p in params["blocks"]:
            z = attend(p["self"], attend(p["cross"], z, x), z)
        start = jnp.zeros((x.shape[0], width))
        (h, _), _ = jax.lax.scan(lambda c, t: cell(params["lstm"], c, t), (start, start), z.swapaxes(0, 1))
        return cross_entropy(h @ params["head"], batch["label"])

    draw = arrays(7)
    blocks = [{name: {k: draw(width, width) for k in "qkvo"} for name in ("cross", "self")} for _ in range(2)]
    params = {"stem": draw(3, 3, 3, width), "latents": draw(latents, width), "blocks": blocks,
              "lstm": draw(2 * width, 4 * width), "head": draw(width, 3)}
    return Model(loss, params, {"image": draw(ROWS, 8, 8, 3), "label": integers(8, 3, ROWS)},
                 optimizer=optax.adafactor(1e-3), name="perceiver")


PLANS = {"found": {}, "pipeline": {"stages": 2, "microbatches": 2}}


@pytest.mark.parametrize(("make", "kind"), [
    (graph_network, "pipeline"), (state_space, "pipeline"),
    *(pytest.param(*pair, marks=pytest.mark.slow)  # each takes several times as long to compile
      for pair in ((graph_network, "found"), (state_space, "found"), (perceiver, "found"), (perceiver, "pipeline")))],
    ids=lambda x: getattr(x, "__name__", x))
def test_a_users_model_is_planned_saved_and_run_as_on_one_device(make, kind, tmp_path):
    model = make()
    plan = planner.plan(model, planner.cluster("cpu-8"), **PLANS[kind])
    plan.save(tmp_path / "p.json")
    again = planner.load(tmp_path / "p.json")
    assert again.to_json() == plan.to_json()
    assert model.name in str(again) and "Where the time goes" in again.explain()
    report = again.check(model, steps=2)
    assert report.passed, str(report)
