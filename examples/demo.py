"""Train a small character-level GPT on Newton's *Opticks* over eight devices, as planned, beside one device alone.

Prints the plan and both losses step by step, lets the trained model write a few lines, and draws the plan and the
losses into ./demo-out. Takes a minute or two on two cores. The text and its source: data/README.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from rich.console import Console
from rich.live import Live
from rich.table import Table

import planner
from planner import models

TEXT = Path(__file__).parent / "data" / "opticks.txt"
SEQUENCE, BATCH = 64, 32
PICTURES = ("all", "devices", "timetable", "memory", "graph", "shardings")


class Corpus:
    """A text as character codes, with random windows drawn from a seed."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        self.codes = np.array([self.characters.index(c) for c in text], np.int32)
        self.vocabulary = -len(self.characters) // 8 * -8  # a multiple of 8 can be sharded over eight devices

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Windows of `SEQUENCE` characters, and the characters that follow each; the same for the same step."""
        starts = np.random.default_rng(step).integers(0, len(self.codes) - SEQUENCE - 1, BATCH)
        rows = np.stack([self.codes[s:s + SEQUENCE + 1] for s in starts])
        return {"tokens": rows[:, :-1], "labels": rows[:, 1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=80, help="training steps")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the pictures")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    console = Console()

    corpus = Corpus(TEXT.read_text(encoding="utf-8"))
    rate = optax.linear_schedule(0.0, 3e-3, transition_steps=20)  # starts gently
    model = models.build("gpt-tiny", batch_size=BATCH, dtype="float32", optimizer=optax.adamw(rate), sequence=SEQUENCE,
                         hidden=128, layers=4, heads=8, vocabulary=corpus.vocabulary)
    mesh = jax.make_mesh((8,), ("d",))
    console.rule("[bold]The model and the text")
    console.print(f"A GPT of {model.parameter_count:,} parameters, to be trained on {len(corpus.codes):,} characters "
                  f"of Newton's Opticks over {mesh.devices.size} {mesh.devices.flat[0].platform} devices.")

    console.rule("[bold]The plan")
    with console.status("planning (the first time on a machine, it is measured too: up to a minute)") as status:
        plan = planner.plan(model, mesh, progress=status.update)
    console.print(plan)

    console.rule("[bold]Training: the plan on eight devices beside plain JAX on one")
    params = models.init(model, seed=0)
    losses, trained = train(model, plan, mesh, params, corpus, options.steps, console)
    worst = float(np.max(np.abs(losses[:, 0] - losses[:, 1])))
    console.print(f"loss {losses[0, 0]:.3f} → {losses[-1, 0]:.3f}; "
                  f"the largest difference between the two is {worst:.1e}")

    console.rule("[bold]What it has learnt to write")
    console.print(write(model, trained, corpus, "The Light "), markup=False, highlight=False)

    console.rule("[bold]Pictures")
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in PICTURES:
        plan.plot(options.out / f"{kind}.png", kind=kind)
        console.print(f"{options.out / kind}.png", soft_wrap=True)
    draw_losses(losses, options.out / "loss.png")
    console.print(f"{options.out / 'loss.png'}")
    plan.save(options.out / "gpt.plan.json")
    console.print(f"{options.out / 'gpt.plan.json'} (the plan itself; see it with `planner show`)", soft_wrap=True)


def train(model: models.ZooModel, plan: planner.Plan, mesh: jax.sharding.Mesh, params: Any, corpus: Corpus, steps: int,
          console: Console) -> tuple[np.ndarray, Any]:
    """Losses `[steps, 2]` (planned, one device) and the parameters that the planned run ends with."""
    with console.status("compiling"):
        step, state = plan.compile(model, mesh, params=params)
        alone, alone_state = single_device(model, params)
    table = Table("step", "loss, planned", "loss, one device", "difference")
    losses = np.zeros((steps, 2))
    with Live(table, console=console, refresh_per_second=4):
        for n in range(steps):
            batch = corpus.batch(n)
            state, metrics = step(state, batch)
            alone_state, loss = alone(alone_state, batch)
            losses[n] = float(metrics["loss"]), float(loss)
            if n % max(1, steps // 15) == 0 or n == steps - 1:
                planned, one = losses[n]
                table.add_row(str(n), f"{planned:.5f}", f"{one:.5f}", f"{planned - one:+.1e}")
    return losses, jax.device_get(state.params)


def single_device(model: models.ZooModel, params: Any) -> tuple[Callable[..., Any], Any]:
    """The same training step in plain JAX, on the first device."""
    optimizer = model.optimizer

    @jax.jit
    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, opt_state = state
        loss, grads = jax.value_and_grad(model.fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return step, jax.device_put((params, optimizer.init(params)), jax.devices()[0])


def write(model: models.ZooModel, params: Any, corpus: Corpus, start: str, length: int = 200) -> str:
    """A text that goes on from `start`, drawn character by character."""
    forward = jax.jit(model.network.forward)
    codes = [corpus.characters.index(c) for c in start]
    for n in range(length):
        window = np.zeros((1, SEQUENCE), np.int32)
        recent = codes[-SEQUENCE:]
        window[0, :len(recent)] = recent
        logits = forward(params, {"tokens": window})[0, len(recent) - 1, :len(corpus.characters)]
        codes.append(int(jax.random.categorical(jax.random.key(n), jnp.asarray(logits) / 0.7)))
    return "".join(corpus.characters[c] for c in codes)


def draw_losses(losses: np.ndarray, path: Path) -> None:
    """Both loss curves, and their difference below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    above.plot(losses[:, 1], color="#E69F00", linewidth=5, alpha=0.6, label="one device")
    above.plot(losses[:, 0], color="#0072B2", linewidth=1.5, label="planned, eight devices")
    above.set_ylabel("loss, nats a character")
    above.legend(frameon=False)
    below.plot(losses[:, 0] - losses[:, 1], color="#000000", linewidth=1)
    below.set_ylabel("difference")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
