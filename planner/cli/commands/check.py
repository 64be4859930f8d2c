"""`planner check`: run a plan beside plain JAX on one device and compare the numbers."""

import argparse

from planner.cli import options
from planner.cli.command import FAILED, OK, Command, Output
from planner.cli.commands.plan import found_plan


def add(parser: argparse.ArgumentParser) -> None:
    """Model, devices, and perhaps a plan."""
    options.add_under_plan(parser, verb="check", steps=5)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Check and print the report; 1 where the numbers differ."""
    from planner.cli import running

    options.check_steps(args)
    devices = options.devices(args)
    plan = running.saved_plan(args, devices) or found_plan(args, out)
    model = running.with_values(options.model(args, len(devices)), args.seed)
    with out.progress("checking"):
        report = plan.check(model, devices, steps=args.steps, seed=args.seed,
                            batches=lambda step: running.batch(model, args.seed + step))
    if args.json:
        out.json(running.report_data(report))
    else:
        out.text(str(report))
    return OK if report.passed else FAILED


COMMAND = Command("check", "run a plan beside plain JAX on one device and compare losses, gradients and parameters", (
    "planner check my_model.py:build --devices 8",
    "planner check gpt-125m --set layers=2 --devices 8 --stages 2 --microbatches 4",
    "planner check my_model.py:build --devices 8 --plan gpt.plan.json"), add, run)
