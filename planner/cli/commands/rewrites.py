"""`planner rewrites`: the rules that a search may use, proved if asked; `planner rewrites generate` proposes others."""

import argparse
from typing import Any

from rich.table import Table
from rich.text import Text

from planner.cli import options
from planner.cli.command import FAILED, OK, Command, Output
from planner.cli.commands import generate_rewrites
from planner.errors import RewriteError, UnknownNameError
from planner.report.tables import Column, table_of

SAMPLES = 20
"""Samples of each rule unless told. [measured: one sample of each of 91 rules takes 28 s of CPU]"""

INTRODUCTION = """\
What stands left of an arrow becomes what stands right of it, where a rule's side conditions hold.
  x·w    a matrix product      [x y]  beside each other     [x; y]  below each other
  =      the same bits         ≈      last bits may differ, or the sign of a zero
Rules that assume something of the numbers, which nobody checks, are used where they are allowed by
name: `planner plan MODEL --rewrite joint --allow NAME`; --rule and --family say what rules are for."""


def add(parser: argparse.ArgumentParser) -> None:
    """How to print, or what else to do."""
    parser.add_argument("--rule", action="append", metavar="RULE", help="this rule alone, and what it is good for (may "
                        "be repeated)")
    parser.add_argument("--family", action="append", metavar="FAMILY", help="the rules of this family alone (may be "
                        "repeated)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--prove", nargs="?", type=int, const=SAMPLES, metavar="SAMPLES",
                        help="evaluate each rule with its gradients in float64 on samples of random shapes "
                        f"({SAMPLES} unless told), before and after; with --model: of the model, and its own graph")
    options.add_model(parser, option=True)
    others = parser.add_subparsers(title="more", metavar="COMMAND")
    generate_rewrites.add_to(others)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the rules by family, or do what was asked for instead."""
    if getattr(args, "instead", None) is not None:
        return args.instead(args, out)
    rules = _chosen(args.rule or [], args.family or [])
    if args.prove is not None:
        if args.prove < 1:
            raise RewriteError(f"{args.prove} samples prove nothing", "give a positive number after --prove")
        return _prove(rules, args, out) if args.model is None else _prove_in_model(rules, args, out)
    if args.model is not None:
        raise RewriteError("--model alone proves nothing", "write --prove SAMPLES --model MODEL")
    if args.json:
        out.json([_told(r) for r in rules])
        return OK
    families = {r.family: r.about for r in sorted(rules, key=lambda r: r.family)}
    if not args.rule and not args.family:
        out.text(f"{len(rules)} rewrites in {len(families)} families\n\n{INTRODUCTION}")
    widest = max(len(r.name) for r in rules)
    for family, about in families.items():
        out.text("")
        out.show(_listed(f"{family}: {about}", [r for r in rules if r.family == family], widest,
                         reasons=bool(args.rule or args.family)))
    return OK


def _chosen(names: list[str], families: list[str]) -> list[Any]:
    """The rules of those names and families; all if none are given."""
    from planner.rewrites import RULES

    known = {RULES[name].family for name in RULES}
    for family in families:
        if family not in known:
            raise UnknownNameError("family of rewrites", family, tuple(sorted(known)))
    chosen = {RULES[name].name for name in names} | {name for name in RULES if RULES[name].family in families}
    return [RULES[name] for name in RULES if name in chosen or not (names or families)]


def _listed(title: str, rules: list[Any], widest: int, *, reasons: bool) -> Table:
    """The rules of a family: names of one width, what becomes what, what is assumed below, and if asked, reasons."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, expand=True)
    table.add_column(width=widest, no_wrap=True)
    table.add_column(width=1)
    table.add_column(overflow="fold", ratio=1)
    for rule in rules:
        table.add_row(Text(rule.name), Text("≈" if rule.rounding else "="), Text(rule.says.replace("->", "→")))
        if rule.assumes:
            table.add_row("", "", Text(f"assumes: {rule.assumes}"))
        if reasons:
            table.add_row("", "", Text(rule.why))
    return table


def _told(rule: Any) -> dict[str, Any]:
    return {"name": rule.name, "family": rule.family, "says": rule.says, "rounding": rule.rounding,
            "assumes": rule.assumes}


def _prove(rules: list[Any], args: argparse.Namespace, out: Output) -> int:
    """Evaluate rules; 1 if one is wrong."""
    from planner.rewriting.prove import prove

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


def _prove_in_model(rules: list[Any], args: argparse.Namespace, out: Output) -> int:
    """Evaluate a model rewritten at each place by itself; 1 if one is wrong."""
    from planner.check.inputs import with_numbers
    from planner.cli.running import batch
    from planner.rewriting.prove_model import arrays_for, prove_places
    from planner.trace import trace_program

    model = options.model(args, 1)
    program = trace_program(model)
    samples = [arrays_for(program, with_numbers(model, seed), batch(model, seed)) for seed in range(args.prove)]
    proofs = []
    with out.bar("proving") as tell:
        for proof in prove_places(program, samples, rules):
            proofs.append(proof)
            tell(str(proof.rewriting), len(proofs) / (len(proofs) + 1))
    wrong = sum(not p.is_right for p in proofs)
    if args.json:
        out.json([{"rule": p.rewriting.rule, "at": p.rewriting.at, "places": p.places, "samples": args.prove,
                   "worst": p.worst, "right": p.is_right} for p in proofs])
    else:
        out.show(table_of(f"{model.name}: {len(proofs)} cases on {args.prove} samples, {wrong} wrong", [
            Column("rule", number=False), Column("at", number=False, wrap=True), Column("places"),
            Column("largest difference"), Column("", number=False)],
            [(p.rewriting.rule, p.rewriting.at, str(p.places), f"{p.worst:.1e}", "" if p.is_right else "wrong")
             for p in proofs]))
    return FAILED if wrong else OK


COMMAND = Command("rewrites", "list the algebraic rewrites that there are, or look for others", (
    "planner rewrites", "planner rewrites --family matmuls --family attention",
    "planner rewrites --prove 100 --rule fuse_matmuls",
    "planner rewrites --prove 3 --model gpt-tiny --set layers=2",
    "planner rewrites generate -o proposals.txt --operators 3 --budget 60"), add, run)
