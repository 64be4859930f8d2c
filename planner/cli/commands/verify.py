"""`planner verify`: compile a plan for a target that need not be there, and hold it against the prediction."""

import argparse
from typing import TYPE_CHECKING

from planner.cli import options
from planner.cli.command import FAILED, OK, Command, Output
from planner.cli.commands.plan import found_plan

if TYPE_CHECKING:
    from planner.planned import Plan


def add(parser: argparse.ArgumentParser) -> None:
    """Model, place, pins, perhaps a plan, and what to compile for."""
    options.add_model(parser)
    options.add_place(parser)
    options.add_pins(parser)
    options.add_cache(parser)
    parser.add_argument("--plan", metavar="FILE", help="verify this plan; default: plan now, with the pins above")
    options.add_search(parser)
    parser.add_argument("--target", default="auto", metavar="NAME", help="what to compile for: local, cpu:64, "
                        "tpu:v5p:4x4x4, tpu:v5e:4x8, cuda:h100:8, cuda:a100:2x8 (nodes × GPUs); default: the TPU "
                        "topology of the plan's cluster, else the devices here, else as many virtual CPU devices")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Verify and print the report; 1 where the compiler disagrees with the plan."""
    plan = _plan(args, out)
    if args.batch is None and ":" not in args.model:
        args.batch = plan.record.batch_size
    model = options.model(args, plan.record.device_count)
    with out.progress("compiling") as tell:
        report = plan.verify(model, args.target, progress=tell)
    if args.json:
        out.json(report.as_data())
    else:
        out.show(report.__rich__())
    return OK if report.passed else FAILED


def _plan(args: argparse.Namespace, out: Output) -> "Plan":
    if args.plan is None:
        return found_plan(args, out)
    from planner.planned import load

    if args.devices is not None:
        options.devices(args)
    return load(args.plan)


COMMAND = Command("verify", "compile a plan for a target that need not be there; compare collectives, memory, FLOPs", (
    "planner verify gpt-tiny --devices 8",
    "planner verify gpt-125m --plan gpt.plan.json --target cpu:64",
    "planner verify gpt-1.3b --cluster dgx-h100 --batch 64 --target cuda:h100:8",
    "planner verify my_model.py:build --plan gpt.plan.json --target tpu:v5p:2x2x2 --json"), add, run)
