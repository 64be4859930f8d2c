"""`planner compare`: the found plan beside the standard recipes, all planned by the same code."""

import argparse

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.report import comparison


def add(parser: argparse.ArgumentParser) -> None:
    """Model and place."""
    options.add_model(parser)
    options.add_place(parser)
    options.add_cache(parser)
    parser.add_argument("--microbatches", type=int, metavar="N", help="fix the number of microbatches for all")
    parser.add_argument("--json", action="store_true", help="print rows as JSON instead of a table")


def run(args: argparse.Namespace, out: Output) -> int:
    """Plan each and print one table."""
    place = options.place(args)
    from planner import api
    from planner.core.hardware import Cluster

    count = place.device_count if isinstance(place, Cluster) else len(place)
    model = options.model(args, count)
    pinned = {} if args.microbatches is None else {"microbatches": args.microbatches}
    with out.progress("comparing") as tell:
        plans = api.compare(model, place, hardware=options.hardware(args, place), progress=tell,
                            cache=options.cache(args, out), **pinned)
    records = {name: p if isinstance(p, str) else p.record for name, p in plans.items()}
    if args.json:
        out.json(comparison.rows(records))
    else:
        out.show(comparison.table(records))
    return OK


COMMAND = Command("compare", "show the found plan beside data, FSDP, tensor and even pipeline parallelism", (
    "planner compare gpt-2.6b --cluster dgx-a100 --batch 1024",
    "planner compare my_model.py:build --devices 8"), add, run)
