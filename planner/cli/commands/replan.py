"""`planner replan`: a plan for what is left of a cluster, or for another batch, and what must move."""

import argparse
from typing import TYPE_CHECKING

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.core.plan_io import load

if TYPE_CHECKING:
    from planner.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    """The old plan, what changed, and what to do with the new one."""
    parser.add_argument("plan", metavar="PLAN", help="the old plan's file, written by `planner plan -o`")
    change = parser.add_argument_group("what changed")
    change.add_argument("--without", action="append", default=[], metavar="NAME", help="a node or device that is lost: "
                        "node3, or node3.gpu5 (may be repeated); nodes are node0, node1, ... in the plan's order")
    change.add_argument("--nodes", type=int, metavar="N", help="nodes there are afterwards; new ones come last")
    change.add_argument("--cluster", metavar="NAME|FILE", help="another cluster altogether (with --nodes and "
                        "--devices-per-node)")
    change.add_argument("--devices-per-node", type=int, metavar="N", help="devices used of each node of --cluster")
    change.add_argument("--batch", type=int, metavar="N", help="another batch size")
    model = parser.add_argument_group("model (for programs that are not in the cache; the zoo's are found by name)")
    model.add_argument("--model", metavar="MODEL", help=options.MODEL_HELP)
    model.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as it was planned with")
    options.add_cache(parser)
    parser.add_argument("-o", "--out", metavar="FILE", help="save the new plan")
    parser.add_argument("--json", action="store_true", help="print what moves as JSON instead of tables")


def run(args: argparse.Namespace, out: Output) -> int:
    """Plan again, save, print."""
    options.check_writable(args.out)
    old = load(args.plan)
    from planner.planned import Plan
    from planner.replanning import replan
    from planner.report import moves, tables

    cluster = None if args.cluster is None else options.profile(args.cluster, args.nodes or 1, args.devices_per_node)
    with out.progress("planning again") as tell:
        found = replan(Plan(old), cluster=cluster, without=args.without, nodes=None if cluster else args.nodes,
                       batch_size=args.batch, model=_model(args, old.batch_size, old.compute_dtype, old.device_count),
                       cache=options.cache(args, out), progress=tell)
    new = found.plan.record
    if args.out:
        found.plan.save(args.out)
        out.note(f"plan saved to {args.out}")
    if args.json:
        out.json({"step_time_s": new.step_time_s, "old_step_time_s": old.step_time_s, "devices": new.device_count,
                  "notes": found.notes, "moves": moves.as_data(found.moves, old)})
    else:
        out.show(tables.report(new), moves.table(found.moves, old, new),
                 moves.summary(found.moves, old, new, found.notes))
    return OK


def _model(args: argparse.Namespace, batch: int, dtype: str, devices: int) -> "Model | None":
    """The model given, with the batch and the dtype of the old plan."""
    if args.model is None:
        return None
    from planner.cli.models import load as load_model

    settings = options.sizes(args.set) | ({"dtype": dtype} if ":" not in args.model else {})
    own = args.model if ":" in args.model else None
    return load_model(args.model, batch=None if own else batch, device_count=devices, settings=settings)


COMMAND = Command("replan", "plan again after a lost node or another batch, and say what must move", (
    "planner replan gpt.plan.json --without node3 -o new.plan.json",
    "planner replan gpt.plan.json --nodes 6 --json",
    "planner replan gpt.plan.json --batch 2048",
    "planner replan mine.plan.json --without node3.gpu5 --model my_model.py:build"), add, run)
