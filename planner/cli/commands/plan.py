"""`planner plan`: find the fastest way to run a model."""

import argparse
from typing import TYPE_CHECKING

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.report.formats import check_format

if TYPE_CHECKING:
    from planner.planned import Plan


def add(parser: argparse.ArgumentParser) -> None:
    """Model, place, pins, and what to do with the plan."""
    options.add_model(parser)
    options.add_place(parser)
    options.add_pins(parser)
    options.add_cache(parser)
    options.add_search(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="save the plan, to show, run, check or draw it later")
    parser.add_argument("--plot", metavar="FILE", help="draw the plan into a .png, .svg or .pdf file")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON instead of tables")


def run(args: argparse.Namespace, out: Output) -> int:
    """Plan, save, draw, print. Ctrl-C ends the search with the best plan so far."""
    options.check_writable(args.output, args.plot)
    if args.plot:
        check_format(args.plot)
    found = found_plan(args, out)
    if args.output:
        found.save(args.output)
        out.note(f"plan saved to {args.output}")
    if args.plot:
        found.plot(args.plot)
        out.note(f"picture drawn to {args.plot}")
    if args.json:
        out.text(found.to_json().rstrip())
    else:
        out.show(found.__rich__())
    return OK


def found_plan(args: argparse.Namespace, out: Output) -> "Plan":
    """The plan that the options of the command line ask for."""
    pins = options.pins(args)
    place = options.place(args)
    from planner import api
    from planner.core.hardware import Cluster

    count = place.device_count if isinstance(place, Cluster) else len(place)
    model = options.model(args, count)
    with out.progress("planning") as tell:
        return api.plan(model, place, pins=pins, hardware=options.hardware(args, place), progress=tell,
                        budget_s=args.budget, cache=options.cache(args, out), jobs=args.jobs)


COMMAND = Command("plan", "find the fastest way to run a model on a cluster or on this machine", (
    "planner plan gpt-2.6b --cluster dgx-a100 --nodes 4 --batch 1024 -o gpt.plan.json",
    "planner plan gpt-125m --devices 8 --batch 16 --set layers=2",
    "planner plan my_model.py:build --cluster my-machine.json",
    "planner plan gpt-2.6b --cluster p3.16xlarge --batch 1024 --mesh data=4,model=2 --pin 'params/**/wq=None,model'",
    "planner plan gpt-1.3b --cluster dgx-a100 --batch 1024 --recipe fsdp --json",
), add, run)
