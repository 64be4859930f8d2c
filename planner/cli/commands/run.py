"""`planner run`: train on random batches under a plan, from the beginning or from a checkpoint."""

import argparse
import gc
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli import joining, options
from planner.cli.command import OK, SILENT, Command, Output
from planner.cli.commands.plan import found_plan
from planner.core.pins import Pins
from planner.errors import CheckpointError
from planner.report.progress import HEADER

if TYPE_CHECKING:
    import jax

    from planner.checkpoint import Checkpoints, Resumed
    from planner.model import Model
    from planner.planned import Plan
    from planner.runtime import Loop


def add(parser: argparse.ArgumentParser) -> None:
    """Model, devices, perhaps a plan, and how long."""
    options.add_under_plan(parser, verb="run", steps=10)
    joining.add(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a step")
    parser.add_argument("--print-every", type=int, default=1, metavar="K",
                        help="print a line every K steps (default 1)")
    parser.add_argument("--nonfinite", choices=("stop", "go-on"), default="stop", help="at a loss that is not finite, "
                        "stop (default; the checkpoints before it remain) or go on")
    parser.add_argument("--trace", metavar="FILE", action="append", default=[], help="profile some steps and write the "
                        "typical one beside the simulated step: a .png, .svg or .pdf picture, else JSON for Perfetto "
                        "or Chrome's tracing (may be repeated)")
    parser.add_argument("--trace-steps", type=int, default=3, metavar="N", help="how many are profiled (default 3)")
    group = parser.add_argument_group("checkpoints (need orbax: pip install 'jax-planner[checkpoint]')")
    group.add_argument("--checkpoint", metavar="DIR", help="save the run into this folder meanwhile, and at its end")
    group.add_argument("--every", type=int, default=100, metavar="K", help="steps between checkpoints (default 100)")
    group.add_argument("--keep", type=int, default=3, metavar="N", help="how many of the newest remain (default 3)")
    group.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint, up to --steps in "
                       "all; under its plan, where neither --plan nor pins are given and the devices are as many")


def run(args: argparse.Namespace, out: Output) -> int:
    """Compile, run, print loss, time and rates of each step as it is done."""
    options.check_steps(args)
    options.check_writable(*args.trace)
    _check(args)
    if args.processes is not None:
        return joining.started(args, args.given, lambda: _resumed_plan(args, args.devices) or found_plan(args, out))
    with joining.joined(args, lambda: options.devices(args)) as place:
        return _run(args, out if place.prints else SILENT, place.devices)


def _run(args: argparse.Namespace, out: Output, devices: "list[jax.Device]") -> int:
    from planner.cli import running
    from planner.report import units
    from planner.runtime import Trace

    plan = running.saved_plan(args, devices) or _resumed_plan(args, len(devices)) or found_plan(args, out)
    model = options.model(args, len(devices))
    with _checkpoints(args, plan) or nullcontext() as checkpoints:
        with out.progress("compiling"):
            begun = _begun(args, plan, model, devices, checkpoints)
        for line in begun.skipped:
            out.note(f"not loaded: {line}")
        for line in begun.warnings:
            out.note(f"warning: {line}")
        if not args.json:
            out.text(f"{plan!r}\n{HEADER}")
        _show(args, out, plan.run(begun.step, begun.state, lambda n: running.batch(model, args.seed + n),
                                  range(begun.done, args.steps), saver=checkpoints, nonfinite=args.nonfinite,
                                  trace=Trace(args.trace, args.trace_steps) if args.trace else None))
    if not args.json:
        out.text(f"predicted: {units.seconds(plan.step_time_s)} a step")
    return OK


def _show(args: argparse.Namespace, out: Output, loop: "Loop") -> None:
    """A line a step as it is done, and in a terminal one that stays below them."""
    done, first = None, True
    with out.bar("running") as tell:
        for done in loop:
            tell(done.brief, (done.number + 1) / args.steps)
            if args.json:
                out.json(done.data(), indent=None)
            elif first or (done.number + 1) % args.print_every == 0 or done.number + 1 == args.steps or done.note:
                out.text(f"{done}  (with compiling)" if first else str(done))
            if first:
                gc.freeze()  # what planning and compiling left is not looked through again while steps start
            first = False
    if done is not None and not args.json:
        out.text(done.host)
    if done is not None and not args.json and not done.rates.memory.measured:
        out.text("* predicted by the plan: these devices don't count their memory")


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


def _resumed_plan(args: argparse.Namespace, devices: int) -> "Plan | None":
    if not args.resume or options.pins(args) != Pins():
        return None
    from planner.checkpoint import last_plan

    plan = last_plan(args.checkpoint)
    return plan if plan is not None and plan.record.device_count == devices else None


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
    "planner run my_model.py:build --processes 2 --devices-per-process 4 --steps 10",
    "planner run my_model.py:build --plan gpt.plan.json --join",
    "planner run gpt-tiny --devices 8 --stages 2 --trace run.trace.json",
    "planner run my_model.py:build --steps 10000 --checkpoint run-1 --every 500",
    "planner run my_model.py:build --steps 10000 --checkpoint run-1 --every 500 --resume --devices 4"), add, run)
