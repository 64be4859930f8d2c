"""`planner rewrites`: the rules that a search may use; `planner rewrites generate` proposes others."""

import argparse

from planner.cli.command import OK, Command, Output
from planner.cli.commands import generate_rewrites
from planner.report.tables import Column, table_of


def add(parser: argparse.ArgumentParser) -> None:
    """How to print, or what else to do."""
    parser.add_argument("--json", action="store_true", help="print as JSON")
    others = parser.add_subparsers(title="more", metavar="COMMAND")
    generate_rewrites.add_to(others)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the table of rules, or do what was asked for instead."""
    if getattr(args, "instead", None) is not None:
        return args.instead(args, out)
    from planner.rewrites import RULES

    rules = [RULES[name] for name in RULES]
    if args.json:
        out.json([{"name": r.name, "says": r.says, "rounding": r.rounding, "assumes": r.assumes} for r in rules])
    else:
        out.show(table_of(f"{len(rules)} rewrites", [
            Column("rule", number=False), Column("what becomes what", number=False, wrap=True),
            Column("rounding", number=False), Column("assumes", number=False, wrap=True)],
            [(r.name, r.says, "may differ" if r.rounding else "the same", r.assumes) for r in rules]))
    return OK


COMMAND = Command("rewrites", "list the algebraic rewrites that there are, or look for others", (
    "planner rewrites", "planner rewrites generate -o proposals.txt --operators 3 --budget 60"), add, run)
