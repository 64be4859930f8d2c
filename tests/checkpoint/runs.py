"""Runs for tests of checkpoints: a model under a hand-written plan, trained with or without an interruption."""

from pathlib import Path

import jax

from planner.check.inputs import random_batch
from planner.checkpoint import Checkpoints, Resumed
from planner.model import Model
from planner.planned import Plan
from tests.runtime.plans import Design, record_of

STEPS, EVERY = 6, 2


def plan_of(model: Model, design: Design) -> Plan:
    return Plan(record_of(model, design))


def open_run(folder: Path, model: Model, design: Design, **options) -> tuple[Checkpoints, Resumed]:
    """A handle, and the run that goes on from the folder or begins."""
    plan = plan_of(model, design)
    checkpoints = Checkpoints(folder, plan, every=EVERY, **options)
    return checkpoints, checkpoints.resume(model, jax.devices()[:plan.record.device_count], or_start=True)


def train(folder: Path, model: Model, design: Design, until: int = STEPS, **options
          ) -> tuple[dict[int, float], Resumed]:
    """Losses of the steps that were run, by number, and what was resumed. Batches follow from the step's number."""
    checkpoints, run = open_run(folder, model, design, **options)
    losses, state = {}, run.state
    with checkpoints:
        for n in range(run.done, until):
            state, metrics = run.step(state, random_batch(model, n))
            losses[n] = float(metrics["loss"])
            checkpoints.save(n + 1, state)
    return losses, run


def only_losses(folder: Path, model: Model, design: Design) -> dict[int, float]:
    """The uninterrupted run's losses."""
    return train(folder / "whole", model, design)[0]
