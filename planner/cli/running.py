"""What `planner run` and `planner check` share: real values for a model, and timed steps."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np

from planner.errors import PlanMismatchError
from planner.model import Model
from planner.planned import Plan, load


@dataclass(frozen=True)
class Step:
    """A step that was run: its number from 0, the loss (None without one) and its wall time."""

    number: int
    loss: float | None
    time_s: float


def saved_plan(args: argparse.Namespace, devices: list[jax.Device]) -> Plan | None:
    """The plan of `--plan`, or None without it.

    Raises:
      PlanFileError: see `planner.load`.
      PlanMismatchError: it is for another number of devices.
    """
    if args.plan is None:
        return None
    plan = load(args.plan)
    if plan.record.device_count != len(devices):
        raise PlanMismatchError(f"{args.plan} is for {plan.record.device_count} devices, there are {len(devices)}",
                                f"give --devices {plan.record.device_count} (virtual CPU devices), or plan again")
    return plan


def with_values(model: Model, seed: int) -> Model:
    """The model with real parameters and state: those of the zoo, else its own."""
    from planner import models

    if isinstance(model, models.ZooModel):
        return replace(model, params=models.init(model, seed), state=models.init_state(model))
    return model


def random_batch(model: Model, seed: int) -> Any:
    """A batch: the zoo's, else the model's own where it has values, else normal floats and integers 0 or 1."""
    from planner import models

    if isinstance(model, models.ZooModel):
        return models.random_batch(model, seed)
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            return rng.standard_normal(leaf.shape, dtype=np.float32).astype(leaf.dtype)
        return rng.integers(0, 2, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map(draw, model.batch)


def steps(step: Callable[..., Any], state: Any, model: Model, count: int, seed: int) -> Iterator[Step]:
    """Run steps on fresh random batches, each waited for."""
    for number in range(count):
        batch = random_batch(model, seed + number)
        start = time.perf_counter()
        result = step(state, batch)
        jax.block_until_ready(result)
        spent = time.perf_counter() - start
        loss = None
        if model.kind != "inference":
            state, metrics = result
            loss = float(metrics["loss"]) if isinstance(metrics, dict) and "loss" in metrics else None
        yield Step(number, loss, spent)


def step_json(done: Step) -> str:
    """A step as one line of JSON."""
    return json.dumps(asdict(done))


def report_data(report: Any) -> dict[str, Any]:
    """A check report as plain data."""
    return asdict(report)
