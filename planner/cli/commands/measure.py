"""`planner measure`: time this machine and write its profile."""

import argparse

from planner.cli import options
from planner.cli.command import OK, Command, Output

BUDGET_S = 150.0
"""Seconds; stands here so that `--help` needs no JAX."""


def add(parser: argparse.ArgumentParser) -> None:
    """The devices, the file and the time."""
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="write the profile here, for `planner plan --cluster FILE` and --hardware")
    parser.add_argument("--devices", type=int, metavar="N", help="that many virtual CPU devices (default: those found)")
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="about how long it may take "
                        f"(default {BUDGET_S:.0f}): with less, fewer repeats and a coarser grid of matmuls")
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Measure, write, print."""
    options.check_writable(args.output)
    devices = options.devices(args)
    from planner import measure, profiles
    from planner.report import machine

    with out.bar("measuring") as tell:
        cluster = measure.measure(devices, budget_s=args.budget, progress=tell)
    if args.output:
        profiles.write_profile(cluster, args.output, "measured by `planner measure`")
        out.note(f"profile written to {args.output}")
    if args.json:
        out.json(machine.as_data(cluster))
    else:
        out.show(machine.table(cluster))
    return OK


COMMAND = Command("measure", "time the devices of this machine and write a profile (the less else runs, the better)", (
    "planner measure -o my-machine.json", "planner measure --devices 8 -o eight.json",
    "planner measure --budget 40 --json"), add, run)
