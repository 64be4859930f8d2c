"""`planner simulate`: a saved plan's step by event simulation."""

import argparse

from planner.cli.command import OK, Command, Output
from planner.core import plan_io
from planner.report.formats import check_format


def add(parser: argparse.ArgumentParser) -> None:
    """The plan file, and where to write what."""
    parser.add_argument("plan", metavar="PLAN", help="a plan file, written by `planner plan -o`")
    parser.add_argument("--json", action="store_true", help="print the sums as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw the timetable to a .png, .svg or .pdf file")
    parser.add_argument("--trace", metavar="FILE", help="write every interval as JSON for Perfetto or Chrome's tracing")


def run(args: argparse.Namespace, out: Output) -> int:
    """Read, simulate, print, and write what was asked for."""
    record = plan_io.load(args.plan)
    if args.plot:
        check_format(args.plot)
    from planner.simulate import simulate

    line = simulate(record, intervals=args.trace is not None)
    if args.json:
        out.json(line.summary())
    else:
        out.text(str(line))
    if args.trace:
        from planner.report.trace_events import write_trace

        write_trace(line, args.trace)
        out.note(f"trace written to {args.trace}")
    if args.plot:
        from planner.report import plots

        plots.plot(record, args.plot, "timetable")
        out.note(f"picture drawn to {args.plot}")
    return OK


COMMAND = Command("simulate", "play a saved plan's step through: timeline, bubble, overlap, memory over time", (
    "planner simulate gpt.plan.json", "planner simulate gpt.plan.json --trace gpt.trace.json --plot gpt.png"), add, run)
