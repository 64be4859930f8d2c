"""What `planner run` and `planner check` share: a plan that was saved, real values for a model, batches."""

import argparse
from dataclasses import asdict, replace
from typing import Any

import jax

from planner import models
from planner.check import CheckReport
from planner.check.inputs import random_batch, with_numbers
from planner.errors import PlanMismatchError
from planner.model import Model
from planner.planned import Plan, load


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


def report_data(report: CheckReport) -> dict[str, Any]:
    """A check report as plain data."""
    tensors = [asdict(t) | {"allowed": t.allowed, "passed": t.passed} for t in report.tensors]
    return {"passed": report.passed, "steps": report.steps, "losses": report.losses, "tensors": tensors}
