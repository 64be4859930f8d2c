"""`planner run`: train on random batches under a plan."""

import argparse

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.cli.commands.plan import found_plan


def add(parser: argparse.ArgumentParser) -> None:
    """Model, devices, perhaps a plan, and how long."""
    options.add_under_plan(parser, verb="run", steps=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object a step")


def run(args: argparse.Namespace, out: Output) -> int:
    """Compile, run, print loss and time of each step as it is done."""
    from planner.cli import running
    from planner.report import units

    options.check_steps(args)
    devices = options.devices(args)
    plan = running.saved_plan(args, devices) or found_plan(args, out)
    model = running.with_values(options.model(args, len(devices)), args.seed)
    with out.progress("compiling"):
        step, state = plan.compile(model, devices)
    if not args.json:
        out.text(f"{plan!r}\n{'step':>5}  {'loss':>12}  {'time':>9}")
    for done in running.steps(step, state, model, args.steps, args.seed):
        if args.json:
            out.text(running.step_json(done))
        else:
            loss = "–" if done.loss is None else f"{done.loss:.6f}"
            note = "  (with compiling)" if done.number == 0 else ""
            out.text(f"{done.number:>5}  {loss:>12}  {units.seconds(done.time_s):>9}{note}")
    if not args.json:
        out.text(f"predicted: {units.seconds(plan.step_time_s)} a step")
    return OK


COMMAND = Command("run", "run a model under a plan on the devices of this machine, with random batches", (
    "planner run gpt-125m --set layers=2 --batch 16 --devices 8 --steps 10",
    "planner run my_model.py:build --devices 8 --plan gpt.plan.json"), add, run)
