"""Names that operators and gradients carry into the compiled program, and how they are found again there.

A compiled instruction tells the scopes that its operator was traced in (HLO's `op_name` metadata). Each operator of a
graph runs in a scope of its own, with its index and the user's source line: profilers show the line, and what the
compiler made of an operator can be told. In: an operator. Out: a name; or from a compiled name, the operator.
"""

import re
from dataclasses import dataclass

from planner.core.graph import Op, Phase

_OPERATOR = re.compile(rf"\b({'|'.join(p.value for p in Phase)})\.(\d+)\.")
_GRADIENT = re.compile(r"gradient\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class NamedOperator:
    """An operator as a compiled name tells it: the index in its graph, which for `UPDATE` is the update graph."""

    phase: Phase
    index: int


def operator_name(index: int, op: Op) -> str:
    """The scope of an operator: `"forward.12.dot_general.gpt.py#57"`.

    No colon: where the compiler makes one of several instructions, it joins their names by colons.
    """
    where = op.source.split(" ")[0].replace("/", "_").replace(":", "#")
    return f"{op.phase.value}.{index}.{op.primitive}" + (f".{where}" if where else "")


def gradient_name(path: str, row: int | None) -> str:
    """The scope in which the gradient of a parameter is added up: `"gradient[blocks.wq.0]"`."""
    return f"gradient[{'.'.join([*path.split('/'), *([] if row is None else [str(row)])])}]"


def named_operator(op_name: str) -> NamedOperator | None:
    """The innermost operator of a compiled name; None where it tells none."""
    found = _OPERATOR.findall(op_name)
    return NamedOperator(Phase(found[-1][0]), int(found[-1][1])) if found else None


def named_gradient(op_name: str) -> str | None:
    """The parameter whose gradient a compiled name tells, with dots for slashes; None where it tells none."""
    found = _GRADIENT.search(op_name)
    return found[1] if found else None
