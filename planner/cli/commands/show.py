"""`planner show`: a saved plan as tables."""

import argparse

from planner.cli.command import OK, Command, Output
from planner.core import plan_io
from planner.report import tables


def add(parser: argparse.ArgumentParser) -> None:
    """The plan file."""
    parser.add_argument("plan", metavar="PLAN", help="a plan file, written by `planner plan -o`")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON instead of tables")


def run(args: argparse.Namespace, out: Output) -> int:
    """Read and print."""
    record = plan_io.load(args.plan)
    if args.json:
        out.text(plan_io.to_json(record).rstrip())
    else:
        out.show(tables.report(record))
    return OK


COMMAND = Command("show", "show a saved plan as tables", (
    "planner show gpt.plan.json", "planner show gpt.plan.json --json | jq .plan.step_time_s"), add, run)
