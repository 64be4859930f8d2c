"""What `planner run` and `planner check` share: real values for a model, and timed steps."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from planner import models
from planner.check import CheckReport
from planner.check.inputs import random_batch, with_numbers
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
    """The model with real parameters and state: initial values of the zoo, else its own, random where abstract."""
    if isinstance(model, models.ZooModel):
        return replace(model, params=models.init(model, seed), state=models.init_state(model))
    return with_numbers(model, seed)


def batch(model: Model, seed: int) -> Any:
    """A random batch, in the ranges that the model reads."""
    if isinstance(model, models.ZooModel):
        return models.random_batch(model, seed)
    return random_batch(model, seed)


def steps(step: Callable[..., Any], state: Any, model: Model, numbers: range, seed: int,
          save: Callable[[int, Any], Any] | None = None) -> Iterator[Step]:
    """Run steps on fresh random batches, each waited for.

    Args:
      step, state: as compiled, or resumed.
      model: what the batches are for.
      numbers: of the steps to run; those before are done.
      seed: of the first step's batch; later ones follow.
      save: given the number of steps done and the state after each.
    """
    for number in numbers:
        inputs = batch(model, seed + number)
        start = time.perf_counter()
        result = step(state, inputs)
        jax.block_until_ready(result)
        spent = time.perf_counter() - start
        loss = None
        if model.kind != "inference":
            state, metrics = result
            loss = float(metrics["loss"]) if isinstance(metrics, dict) and "loss" in metrics else None
        if save is not None:
            save(number + 1, state)
        yield Step(number, loss, spent)


def step_json(done: Step) -> str:
    """A step as one line of JSON."""
    return json.dumps(asdict(done))


def report_data(report: CheckReport) -> dict[str, Any]:
    """A check report as plain data."""
    tensors = [asdict(t) | {"allowed": t.allowed, "passed": t.passed} for t in report.tensors]
    return {"passed": report.passed, "steps": report.steps, "losses": report.losses, "tensors": tensors}
