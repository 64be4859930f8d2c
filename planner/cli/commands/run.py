"""`planner run`: train on random batches under a plan, from the beginning or from a checkpoint."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.cli.commands.plan import found_plan
from planner.core.pins import Pins
from planner.errors import CheckpointError

if TYPE_CHECKING:
    import jax

    from planner.checkpoint import Checkpoints, Resumed
    from planner.model import Model
    from planner.planned import Plan


def add(parser: argparse.ArgumentParser) -> None:
    """Model, devices, perhaps a plan, and how long."""
    options.add_under_plan(parser, verb="run", steps=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object a step")
    group = parser.add_argument_group("checkpoints (need orbax: pip install 'jax-planner[checkpoint]')")
    group.add_argument("--checkpoint", metavar="DIR", help="save the run into this folder meanwhile, and at its end")
    group.add_argument("--every", type=int, default=100, metavar="K", help="steps between checkpoints (default 100)")
    group.add_argument("--keep", type=int, default=3, metavar="N", help="how many of the newest remain (default 3)")
    group.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint, up to --steps in "
                       "all; under its plan, where neither --plan nor pins are given and the devices are as many")


def run(args: argparse.Namespace, out: Output) -> int:
    """Compile, run, print loss and time of each step as it is done."""
    from planner.cli import running
    from planner.report import units

    options.check_steps(args)
    _check(args)
    devices = options.devices(args)
    plan = running.saved_plan(args, devices) or _resumed_plan(args, devices) or found_plan(args, out)
    model = options.model(args, len(devices))
    with _checkpoints(args, plan) or nullcontext() as checkpoints:
        with out.progress("compiling"):
            begun = _begun(args, plan, model, devices, checkpoints)
        for line in begun.skipped:
            out.note(f"not loaded: {line}")
        for line in begun.warnings:
            out.note(f"warning: {line}")
        if not args.json:
            out.text(f"{plan!r}\n{'step':>5}  {'loss':>12}  {'time':>9}")
        save = None if checkpoints is None else lambda done, state: checkpoints.save(done, state,
                                                                                     force=done == args.steps)
        for done in running.steps(begun.step, begun.state, model, range(begun.done, args.steps), args.seed, save):
            if args.json:
                out.text(running.step_json(done))
            else:
                loss = "–" if done.loss is None else f"{done.loss:.6f}"
                note = "  (with compiling)" if done.number == begun.done else ""
                out.text(f"{done.number:>5}  {loss:>12}  {units.seconds(done.time_s):>9}{note}")
    if not args.json:
        out.text(f"predicted: {units.seconds(plan.step_time_s)} a step")
    return OK


def _check(args: argparse.Namespace) -> None:
    """Refuse what could be saved nowhere, or among checkpoints of another run, before planning."""
    if args.checkpoint is None:
        if args.resume:
            raise CheckpointError("--resume has no folder to resume from", "give --checkpoint DIR")
        return
    from planner.checkpoint.folder import counts

    found = counts(Path(args.checkpoint))
    if found and not args.resume:
        raise CheckpointError(f"{args.checkpoint} has checkpoints, the last of step {found[-1]}",
                              "add --resume to go on from there, or give another folder")
    if not found and args.resume:
        raise CheckpointError(f"there is no checkpoint in {args.checkpoint}", "leave out --resume to begin")


def _resumed_plan(args: argparse.Namespace, devices: "list[jax.Device]") -> "Plan | None":
    if not args.resume or options.pins(args) != Pins():
        return None
    from planner.checkpoint import last_plan

    plan = last_plan(args.checkpoint)
    return plan if plan is not None and plan.record.device_count == len(devices) else None


def _checkpoints(args: argparse.Namespace, plan: "Plan") -> "Checkpoints | None":
    if args.checkpoint is None:
        return None
    from planner.checkpoint import Checkpoints

    return Checkpoints(args.checkpoint, plan, every=args.every, keep=args.keep)


def _begun(args: argparse.Namespace, plan: "Plan", model: "Model", devices: "list[jax.Device]",
           checkpoints: "Checkpoints | None") -> "Resumed":
    """The run from its beginning, or from the newest checkpoint."""
    from planner.checkpoint import Resumed
    from planner.cli import running

    if checkpoints is not None and model.kind == "inference":
        raise CheckpointError(f"{model.name!r} is for inference, which changes nothing that could be saved",
                              "leave out --checkpoint")
    if checkpoints is None or not args.resume:
        return Resumed(*plan.compile(running.with_values(model, args.seed), devices), 0)
    begun = checkpoints.resume(model, devices)
    if begun.done >= args.steps:
        raise CheckpointError(f"{args.checkpoint} is of step {begun.done}: --steps {args.steps} leaves nothing to do",
                              f"give --steps {begun.done + 10}, say: they count from the beginning")
    return begun


COMMAND = Command("run", "run a model under a plan on the devices of this machine, with random batches", (
    "planner run gpt-125m --set layers=2 --batch 16 --devices 8 --steps 10",
    "planner run my_model.py:build --devices 8 --plan gpt.plan.json",
    "planner run my_model.py:build --steps 10000 --checkpoint run-1 --every 500",
    "planner run my_model.py:build --steps 10000 --checkpoint run-1 --every 500 --resume --devices 4"), add, run)
