"""`planner sweep`: a model over clusters, sizes and batches: which to rent, for this budget or deadline."""

import argparse
import json
from functools import partial
from pathlib import Path

from planner.cli import options
from planner.cli.command import INTERRUPTED, OK, Command, Output
from planner.core.files import write_atomically
from planner.core.sweeps import SweepRow
from planner.errors import PinError, PlannerError
from planner.report.formats import check_format


def add(parser: argparse.ArgumentParser) -> None:
    """Model, grid, how long a run is, what it may take, and what to do with the rows."""
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    grid = parser.add_argument_group("grid")
    grid.add_argument("--clusters", nargs="+", required=True, metavar="NAME|FILE", help="clusters (see `planner "
                      "clusters`) or profile files")
    grid.add_argument("--nodes", nargs="+", type=int, default=[1], metavar="N", help="nodes of each (default 1)")
    grid.add_argument("--batch", nargs="+", type=int, required=True, metavar="N", help="batch sizes")
    run = parser.add_argument_group("run")
    amount = run.add_mutually_exclusive_group()
    amount.add_argument("--tokens", type=float, metavar="N", help="tokens that are trained, e.g. 1e12")
    amount.add_argument("--samples", type=float, metavar="N", help="samples that are trained (default 1e6)")
    amount.add_argument("--steps", type=float, metavar="N", help="steps, of any batch")
    run.add_argument("--budget-usd", type=float, metavar="USD", help="what the run may cost")
    run.add_argument("--deadline-h", type=float, metavar="HOURS", help="how long it may take")
    run.add_argument("--price", action="append", default=[], metavar="NAME=USD", help="price of one device for an "
                     "hour, instead of the profile's (may be repeated)")
    options.add_sizes(parser.add_argument_group("model"))
    options.add_pins(parser)
    options.add_cache(parser)
    parser.add_argument("--search", type=float, metavar="SECONDS", help="stop searching at each point after about this "
                        "long")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that plan (default 1)")
    parser.add_argument("-o", "--output", metavar="FILE", help="save the rows, as .csv or .json")
    parser.add_argument("--plans", metavar="FOLDER", help="save the plan of every point in this folder")
    parser.add_argument("--plot", metavar="FILE", help="draw cost, time, utilisation and memory into a .png, .svg or "
                        ".pdf file")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")


def run(args: argparse.Namespace, out: Output) -> int:
    """Plan every point, save, draw, print. Ctrl-C keeps the rows so far."""
    _check_files(args)
    pins = options.pins(args)
    prices = dict(_price(text) for text in args.price)
    from planner.cli.models import of_batch
    from planner.sweeping.grid import Training
    from planner.sweeping.run import Terms, sweep

    given = Training(args.tokens, args.samples, args.steps)
    terms = Terms(None if given == Training() else given, args.budget_usd, args.deadline_h, prices, args.jobs,
                  args.search, args.plans, options.cache(args, out))
    model = partial(of_batch, args.model, options.settings(args))
    with out.bar("planning") as tell:
        def done(row: SweepRow, count: int, total: int) -> None:
            tell(f"{row.name} ({count} of {total})", count / total)

        found = sweep(model, args.clusters, nodes=args.nodes, batches=args.batch, terms=terms, pins=pins, on_row=done)
    from planner.report import sweep_words

    if args.output:
        text = found.to_csv() if args.output.endswith(".csv") else json.dumps(found.to_data(), indent=1) + "\n"
        try:
            write_atomically(Path(args.output), text.encode())
        except OSError as fault:
            raise PlannerError(f"cannot write {args.output}: {fault.strerror or fault}",
                               "give a file in a folder that can be written") from fault
        out.note(f"rows saved to {args.output}")
    if args.plot:
        from planner.report.sweep_plot import plot_sweep

        plot_sweep(found, args.plot)
        out.note(f"picture drawn to {args.plot}")
    if args.json:
        out.json(found.to_data())
    else:
        out.show(sweep_words.report(found))
    return OK if found.complete or found.rows else INTERRUPTED


def _check_files(args: argparse.Namespace) -> None:
    """Refuse files that could not be written, before the work that would be lost."""
    options.check_writable(args.output, args.plot)
    if args.plot:
        check_format(args.plot)
    if args.output and not args.output.endswith((".csv", ".json")):
        raise PlannerError(f"cannot save rows as {args.output!r}", "give a file that ends in .csv or .json")
    if args.plans and not Path(args.plans).is_dir():
        raise PlannerError(f"there is no folder {args.plans}", "make it, or give another")


def _price(text: str) -> tuple[str, float]:
    name, _, usd = text.rpartition("=")
    try:
        return name, float(usd)
    except ValueError as fault:
        raise PinError(f"--price {text!r} is not NAME=USD", "write --price dgx-h100=2.49") from fault


COMMAND = Command("sweep", "plan a model for many clusters, sizes and batches, and say which to rent", (
    "planner sweep llama-8b --clusters dgx-h100 dgx-a100 --nodes 1 2 4 8 --batch 256 512 --tokens 1e12 "
    "--deadline-h 720 -o llama.csv --plot llama.png",
    "planner sweep gpt-1.3b --dtype float16 --clusters p3.16xlarge --nodes 1 2 4 --batch 1024 --budget-usd 5000 "
    "--price p3.16xlarge=1.5 --jobs 2"), add, run)
