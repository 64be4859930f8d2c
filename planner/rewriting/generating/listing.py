"""What was proposed, to be read and reviewed: text, or plain data.

In: `Findings`. Out: text of lines of any length, dictionaries.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from planner.rewriting.generating.generate import Findings, Settings
from planner.rewriting.generating.operators import text
from planner.rewriting.generating.promise import GAINS, Polynomial, written
from planner.rewriting.generating.proposals import Proposal
from planner.rewriting.generating.sizes import letters
from planner.rewriting.generating.sizes import written as size
from planner.rewriting.generating.terms import Term, given, inputs_of

ENDED = MappingProxyType({"complete": "All pairs were looked at.", "budget": "Stopped when time was up.",
                          "interrupted": "Interrupted: this is what was found until then."})


def command(settings: Settings) -> str:
    """The command line that repeats it."""
    parts = ["planner rewrites generate", f"--operators {settings.most}", f"--inputs {','.join(settings.inputs)}"]
    if settings.operators:
        parts.append(f"--over {','.join(settings.operators)}")
    parts.append(f"--seed {settings.seed}")
    if settings.budget_s is not None:
        parts.append(f"--budget {settings.budget_s:g}")
    return " ".join(parts)


def summary(found: Findings) -> list[str]:
    """What was made, and what became of it, in lines."""
    images = sum(len(p.images) for p in found.proposals)
    return [
        f"{found.terms:,} terms of up to {found.settings.most} operators, {found.pairs:,} pairs of equal fingerprints, "
        f"{found.looked_at:,} looked at. {ENDED[found.ended]}",
        f"{found.derived:,} follow from identities found before or are instances of one, {found.untrue:,} are not true "
        f"for other shapes, {found.idle:,} say only that an input does not matter.",
        f"{len(found.by_rules):,} are implied by rules that are there; {len(found.proposals):,} are proposed, and "
        f"{images:,} that are their images."]


def as_text(found: Findings) -> str:
    """Everything, the most promising first."""
    lines = [command(found.settings), "", *summary(found)]
    for n, proposal in enumerate(found.proposals, 1):
        lines += ["", *_lines(n, proposal)]
    if found.by_rules:
        lines += ["", "Implied by rules that are there:"]
        lines += [f"  {text(left)}  =  {text(right)}   ({', '.join(names) or 'the same graph'})"
                  for left, right, names in found.by_rules]
    return "\n".join(lines) + "\n"


def _lines(number: int, proposal: Proposal) -> Iterator[str]:
    names = letters(proposal.shapes)
    inputs = inputs_of(proposal.left, proposal.right)
    shapes = [f"{name} {size(proposal.shapes[given(name)], names)}" for name in inputs]
    yield f"{number}. {text(proposal.left)}  ->  {text(proposal.right)}"
    yield f"   {GAINS[proposal.gain]}"
    yield f"   shapes      {', '.join(shapes)}; result {size(proposal.shapes[proposal.left], names)}"
    dear, cheap = proposal.dear, proposal.cheap
    for what, before, after in (("arithmetic", dear.arithmetic, cheap.arithmetic), ("reduced", dear.reduced,
                                cheap.reduced), ("written", dear.written, cheap.written)):
        yield f"   {what:<11} {_change(written(before, names), written(after, names))}"
    yield f"   reductions  {_change(str(dear.reductions), str(cheap.reductions))}"
    yield f"   terms       {_symbols(proposal.left)}  ->  {_symbols(proposal.right)}"
    for left, right in proposal.images:
        yield f"   likewise    {text(left)}  ->  {text(right)}"


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _symbols(term: Term) -> str:
    return f"{term.head}({', '.join(map(_symbols, term.args))})" if term.args else term.head


def as_data(found: Findings) -> dict[str, Any]:
    """Everything as plain data. Polynomials are lists of [factor, [names of sizes]]."""
    return {
        "command": command(found.settings), "ended": found.ended, "terms": found.terms, "pairs": found.pairs,
        "looked_at": found.looked_at, "untrue": found.untrue, "idle": found.idle, "derived": found.derived,
        "by_rules": [{"left": text(left), "right": text(right), "rules": list(names)}
                     for left, right, names in found.by_rules],
        "proposals": [_proposal_data(p) for p in found.proposals]}


def _proposal_data(proposal: Proposal) -> dict[str, Any]:
    names = letters(proposal.shapes)
    sides = [{"term": _symbols(side), "jax": text(side), "arithmetic": _polynomial(cost.arithmetic, names),
              "reductions": cost.reductions, "reduced": _polynomial(cost.reduced, names),
              "written": _polynomial(cost.written, names)}
             for side, cost in ((proposal.left, proposal.dear), (proposal.right, proposal.cheap))]
    return {"gain": GAINS[proposal.gain], "left": sides[0], "right": sides[1],
            "shapes": {name: size(proposal.shapes[given(name)], names)
                       for name in inputs_of(proposal.left, proposal.right)},
            "likewise": [{"left": text(a), "right": text(b)} for a, b in proposal.images]}


def _polynomial(polynomial: Polynomial, names: dict[int, str]) -> list[Any]:
    return [[n, [names[u] for u in unknowns]] for unknowns, n in sorted(polynomial.items())]

