"""`planner rewrites`: the rules that a search may use, proved if asked; `planner rewrites generate` proposes others."""

import argparse
from typing import Any

from planner.cli.command import FAILED, OK, Command, Output
from planner.cli.commands import generate_rewrites
from planner.errors import RewriteError
from planner.report.tables import Column, table_of

SAMPLES = 20
"""Samples of each rule unless told. [measured: one sample of each of 91 rules takes 28 s of CPU]"""


def add(parser: argparse.ArgumentParser) -> None:
    """How to print, or what else to do."""
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--prove", nargs="?", type=int, const=SAMPLES, metavar="SAMPLES",
                        help="evaluate each rule with its gradients in float64 on samples of random shapes "
                        f"({SAMPLES} unless told), before and after")
    parser.add_argument("--rule", action="append", metavar="RULE", help="this rule alone (may be repeated)")
    others = parser.add_subparsers(title="more", metavar="COMMAND")
    generate_rewrites.add_to(others)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the table of rules, or do what was asked for instead."""
    if getattr(args, "instead", None) is not None:
        return args.instead(args, out)
    from planner.rewrites import RULES

    rules = [RULES[name] for name in args.rule or RULES]
    if args.prove is not None:
        return _prove(rules, args, out)
    if args.json:
        out.json([_told(r) for r in rules])
    else:
        out.show(table_of(f"{len(rules)} rewrites", [
            Column("rule", number=False), Column("what becomes what", number=False, wrap=True),
            Column("rounding", number=False), Column("assumes", number=False, wrap=True)],
            [(r.name, r.says, "may differ" if r.rounding else "the same", r.assumes) for r in rules]))
    return OK


def _told(rule: Any) -> dict[str, Any]:
    return {"name": rule.name, "says": rule.says, "rounding": rule.rounding, "assumes": rule.assumes}


def _prove(rules: list[Any], args: argparse.Namespace, out: Output) -> int:
    """Evaluate rules; 1 if one is wrong."""
    from planner.rewriting.prove import prove

    if args.prove < 1:
        raise RewriteError(f"{args.prove} samples prove nothing", "give a positive number after --prove")
    rows: list[dict[str, Any]] = []
    with out.bar("proving") as tell:
        for k, rule in enumerate(rules):
            tell(rule.name, k / len(rules))
            try:
                proof = prove(rule, args.prove)
                found = {"samples": proof.samples, "places": proof.places, "worst": proof.worst, "wrong": ""}
            except RewriteError as error:
                found = {"samples": args.prove, "places": 0, "worst": None, "wrong": str(error)}
            rows.append({**_told(rule), **found})
    wrong = sum(bool(row["wrong"]) for row in rows)
    if args.json:
        out.json(rows)
    else:
        out.show(table_of(f"{len(rows)} rewrites, {sum(r['places'] for r in rows):,} cases, {wrong} wrong", [
            Column("rule", number=False), Column("samples"), Column("cases"), Column("largest difference"),
            Column("wrong", number=False, wrap=True)],
            [(r["name"], str(r["samples"]), str(r["places"]), "" if r["worst"] is None else f"{r['worst']:.1e}",
              r["wrong"]) for r in rows]))
    return FAILED if wrong else OK


COMMAND = Command("rewrites", "list the algebraic rewrites that there are, or look for others", (
    "planner rewrites", "planner rewrites --prove 100 --rule fuse_matmuls",
    "planner rewrites generate -o proposals.txt --operators 3 --budget 60"), add, run)
