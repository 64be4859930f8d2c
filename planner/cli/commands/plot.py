"""`planner plot`: pictures of a saved plan."""

import argparse

from planner.cli.command import OK, Command, Output
from planner.core import plan_io


def add(parser: argparse.ArgumentParser) -> None:
    """The plan file, the picture and its kind."""
    parser.add_argument("plan", metavar="PLAN", help="a plan file, written by `planner plan -o`")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="a .png, .svg or .pdf file")
    parser.add_argument("--kind", default="all", metavar="KIND",
                        help="devices, timetable, memory-curve, memory, time, graph, shardings, operators, or all but "
                             "the last on one sheet (default)")
    parser.add_argument("--layer", type=int, metavar="N", help="of kind operators, which layer, with those alike to it "
                        "(default: those that communicate longest)")


def run(args: argparse.Namespace, out: Output) -> int:
    """Read and draw."""
    record = plan_io.load(args.plan)
    from planner.report import plots

    plots.plot(record, args.output, args.kind, args.layer)
    out.note(f"picture drawn to {args.output}")
    return OK


COMMAND = Command("plot", "draw a saved plan as PNG, SVG or PDF", (
    "planner plot gpt.plan.json -o gpt.png", "planner plot gpt.plan.json -o memory.svg --kind memory",
    "planner plot gpt.plan.json -o layer.png --kind operators --layer 3"), add, run)
