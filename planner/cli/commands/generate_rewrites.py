"""`planner rewrites generate`: identities among small terms that no rule implies, to be reviewed."""

import argparse
from pathlib import Path
from typing import Any

from planner.cli import options
from planner.cli.command import INTERRUPTED, OK, Output
from planner.core.files import write_atomically
from planner.errors import PlannerError

EXAMPLES = ("planner rewrites generate -o proposals.txt --operators 3 --budget 60",
            "planner rewrites generate --operators 2 --over add,mul,matmul --without add_weights")


def add_to(parsers: "argparse._SubParsersAction[Any]") -> None:
    """Put this command among those of `planner rewrites`."""
    summary = "look for identities among small terms that no rule implies, and propose them"
    parser = parsers.add_parser("generate", help=summary, description=summary[0].upper() + summary[1:] + ".",
                                epilog="examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES),
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="FILE", help="write the proposals, as text or as .json")
    parser.add_argument("--operators", type=int, default=3, metavar="N", help="operators of a side, at most "
                        "(default 3)")
    parser.add_argument("--over", metavar="NAME,...", help="operators to build with (default: all that are known)")
    parser.add_argument("--inputs", default="x,y,z,u,v,s", metavar="NAME,...", help="inputs to build with: x y z w p q "
                        "are matrices, u v a b vectors, s t c d scalars (default x,y,z,u,v,s)")
    parser.add_argument("--without", metavar="RULE,...", help="as if these rules were not there")
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS", help="stop after about this long "
                        "(default 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the numbers that terms are compared on "
                        "(default 0)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(instead=run)


def run(args: argparse.Namespace, out: Output) -> int:
    """Look, save, print. Ctrl-C keeps what was found."""
    options.check_writable(args.output)
    from planner.rewrites import RULES
    from planner.rewriting.generating import listing
    from planner.rewriting.generating.generate import Settings, generate

    without = {RULES[name].name for name in _names(args.without)}
    settings = Settings(args.operators, _names(args.over), _names(args.inputs), args.seed, args.budget)
    with out.bar("looking for rewrites") as tell:
        found = generate(settings, [RULES[name] for name in RULES if name not in without], tell)
    if args.output:
        whole = _json(listing.as_data(found)) if args.output.endswith(".json") else listing.as_text(found)
        try:
            write_atomically(Path(args.output), whole.encode())
        except OSError as fault:
            raise PlannerError(f"cannot write {args.output}: {fault.strerror or fault}",
                               "give a file in a folder that can be written") from fault
        out.note(f"{len(found.proposals)} proposals written to {args.output}")
    if args.json:
        out.json(listing.as_data(found))
    elif args.output:
        for line in listing.summary(found):
            out.text(line)
    else:
        out.text(listing.as_text(found).rstrip())
    return OK if found.ended != "interrupted" or found.proposals else INTERRUPTED


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def _json(data: Any) -> str:
    import json

    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
