"""Unity's six kinds of parallelism (OSDI'22), each on a small model where it wins: data, model, spatial, reduction,
pipeline, and operator-specific, of which there are two, experts and sequence.

Each model is planned for eight devices freely, and with the kind ruled out by pins. `--check` also runs every plan on
eight virtual CPU devices, beside plain JAX on one."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

import planner
from planner.core.hardware import Cluster, Link
from planner.models.gating import mixture

Pins = dict[str, Any]

DATA: tuple[Pins, ...] = tuple({"recipe": name, "stages": 1} for name in ("data", "fsdp"))
TENSOR: tuple[Pins, ...] = ({"recipe": "tensor", "stages": 1},)
"""Recipes that a kind is compared with: cutting the batch, cutting weights."""


@dataclass(frozen=True)
class Kind:
    """A kind of parallelism, and the model that it suits.

    Attributes:
      name, why: the kind, and what makes it win.
      model: with abstract parameters; `init` draws real ones.
      cluster: what is planned for.
      words: what the plan must say of itself.
      without: pins of recipes that do without the kind; the fastest of these plans is compared with.
    """

    name: str
    why: str
    model: planner.Model
    cluster: Cluster
    words: str
    without: tuple[Pins, ...]


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def training(name: str, loss: Callable[..., Any], params: Any, batch: Any) -> planner.Model:
    return planner.Model(loss, params, batch, optimizer=optax.adam(1e-3), name=name)


def mlp(name: str, widths: Sequence[int], batch: int) -> planner.Model:
    """Dense layers of these widths."""
    def loss(params: Any, batch: Any) -> jax.Array:
        x = batch["x"]
        for w in params:
            x = jax.nn.relu(x @ w)
        return jnp.mean((x - batch["y"]) ** 2)

    params = [f32(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    return training(name, loss, params, {"x": f32(batch, widths[0]), "y": f32(batch, widths[-1])})


def convolutions(size: int, features: int, layers: int) -> planner.Model:
    """Convolutions of 3 × 3 over one square image."""
    def loss(params: Any, batch: Any) -> jax.Array:
        x = batch["image"]
        for w in params:
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x)
        return jnp.mean((x - batch["target"]) ** 2)

    image = f32(1, size, size, features)
    return training("convolutions", loss, [f32(3, 3, features, features)] * layers, {"image": image, "target": image})


def skinny(rows: int, length: int, columns: int) -> planner.Model:
    """A few very long rows times a few very long columns."""
    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((jnp.tanh(batch["x"] @ params["long"]) - batch["y"]) ** 2)

    return training("tall and skinny", loss, {"long": f32(length, columns)},
                    {"x": f32(rows, length), "y": f32(rows, columns)})


def attention(sequence: int, hidden: int, heads: int) -> planner.Model:
    """Attention over one long sequence, with few heads."""
    wide = f32(hidden, heads, hidden // heads)

    def loss(params: Any, batch: Any) -> jax.Array:
        x = batch["x"]
        q, k, v = (jnp.einsum("bsd,dhk->bshk", x, params[n]) for n in ("query", "key", "value"))
        scores = jnp.einsum("bshk,bthk->bhst", q, k) / q.shape[-1] ** 0.5
        mixed = jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores, axis=-1), v)
        return jnp.mean((x + jnp.einsum("bshk,hkd->bsd", mixed, params["out"]) - batch["y"]) ** 2)

    rows = f32(1, sequence, hidden)
    return training("long attention", loss, {"query": wide, "key": wide, "value": wide,
                                             "out": f32(heads, hidden // heads, hidden)}, {"x": rows, "y": rows})


def experts(batch: int, sequence: int, hidden: int, inner: int) -> planner.Model:
    """Eight experts, of which every token visits two."""
    def loss(params: Any, batch: Any) -> jax.Array:
        def each(tokens: jax.Array) -> jax.Array:
            return jnp.einsum("egcf,efd->egcd", jax.nn.relu(jnp.einsum("egcd,edf->egcf", tokens, params["up"])),
                              params["down"])

        x = jax.nn.relu(batch["x"] @ params["dense"])
        y, balance = mixture(x, params["router"], each, group=sequence, capacity_factor=1.0)
        return jnp.mean(((x + y) @ params["last"] - batch["y"]) ** 2) + 0.01 * balance

    tokens, square = f32(batch, sequence, hidden), f32(hidden, hidden)
    return training("experts", loss, {"dense": square, "router": f32(hidden, 8), "up": f32(8, hidden, inner),
                                      "down": f32(8, inner, hidden), "last": square}, {"x": tokens, "y": tokens})


def slow_network() -> Cluster:
    """Eight machines of one core each on Ethernet of 1 Gb/s, which takes 50 µs to answer."""
    core = dataclasses.replace(planner.cluster("cpu-8").device, alone=1.0)
    ethernet = Link(1e9 / 8, 50e-6)
    return Cluster("8 machines on 1 Gb/s", core, 8, 1, ethernet, ethernet)


def kinds() -> tuple[Kind, ...]:
    """All of them, on one node of eight V100 or on the slow network."""
    node, slow = planner.cluster("p3.16xlarge"), slow_network()
    return (
        Kind("data", "many examples, few weights", mlp("narrow layers", [256] * 5, 8192), node, "batch", TENSOR),
        Kind("model", "wide layers, few examples", mlp("wide layers", [512, 4096, 512, 4096, 512], 8), node,
             "weights (tensor parallel)", DATA),
        Kind("spatial", "one large image", convolutions(256, 16, 4), node, "height (spatial, halo exchange)",
             (*DATA, *TENSOR)),
        Kind("reduction", "a sum far longer than its result", skinny(16, 1 << 18, 16), node,
             "contracted dimensions (reduction)", DATA),
        Kind("pipeline", "many layers, slow links", mlp("deep", [512] * 17, 256), slow, "stages", ({"stages": 1},)),
        Kind("experts", "experts that few tokens visit", experts(64, 32, 128, 1024), slow, "experts (expert parallel)",
             DATA),
        Kind("sequence", "one long sequence, few heads", attention(2048, 64, 2), node, "sequence", DATA),
    )


def compared(kind: Kind) -> tuple[planner.Plan, planner.Plan]:
    """The plan found freely, and the fastest of those without the kind."""
    others = [planner.plan(kind.model, kind.cluster, **pins) for pins in kind.without]
    return planner.plan(kind.model, kind.cluster), min(others, key=lambda plan: plan.step_time_s)


def says(plan: planner.Plan) -> str:
    """What the plan says of its own shardings, stages of one device apart."""
    words = dict.fromkeys(stage.summary for stage in plan.stages)
    return (f"{len(plan.stages)} stages, " if len(plan.stages) > 1 else "") + " | ".join(words)


def real(model: planner.Model, seed: int = 0) -> planner.Model:
    """The model with parameters drawn, each scaled by the square root of what it sums over."""
    leaves, form = jax.tree_util.tree_flatten(model.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape) / (leaf.size / leaf.shape[-1]) ** 0.5
             for key, leaf in zip(keys, leaves, strict=True)]
    return dataclasses.replace(model, params=form.unflatten(drawn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="run every plan for three steps, beside one device")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    print(f"{'kind':<10} {'where it wins':<34} {'step':>8} {'without':>8} {'times':>6}  plan")
    for kind in kinds():
        plan, other = compared(kind)
        print(f"{kind.name:<10} {kind.why:<34} {1e3 * plan.step_time_s:6.2f}ms {1e3 * other.step_time_s:6.2f}ms "
              f"{other.step_time_s / plan.step_time_s:6.2f}  {says(plan)}", flush=True)
        if args.check:
            print(f"{'':<10} {plan.check(real(kind.model), jax.devices(), steps=3)}", flush=True)


if __name__ == "__main__":
    main()
