"""The table of operator rules: primitive name -> `Rule`.

A file in this folder registers its primitives with `@register("name", ...)`; nothing else is needed. Users extend the
table from outside with the same decorator. In: the operator and the types of what it reads and writes. Out: its factors
(`OpRule`) and its FLOPs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from planner.core.graph import Op, Value
from planner.core.spec import OpRule
from planner.registry import Table

Values = tuple[Value, ...]
FactorsOf = Callable[[Op, Values, Values], OpRule]
FlopsOf = Callable[[Op, Values, Values], int]
WholeIf = Callable[[Op, Values, Values], bool]


def no_flops(_op: Op, _ins: Values, _outs: Values) -> int:
    """What moves or makes data without arithmetic."""
    return 0


def never(_op: Op, _ins: Values, _outs: Values) -> bool:
    """For operators that the compiler can partition."""
    return False


def always(_op: Op, _ins: Values, _outs: Values) -> bool:
    """For operators that the compiler never partitions."""
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """What is known of one primitive.

    Attributes:
      factors: `(op, operand types, result types) -> OpRule`. Operand types include those of literals.
      flops: `(op, operand types, result types) -> int`, counted as XLA's cost analysis counts: a fused multiply-add is
        2, elementwise arithmetic 1 per result element, transcendental functions 0.
      elementwise: whether every result element depends on the operand elements of the same position alone.
      whole: `(op, operand types, result types) -> bool`, whether the compiler gathers the operands and runs the
        operator whole on every device, however it is sharded. Its rule then shards nothing, and the user is told.
    """

    factors: FactorsOf
    flops: FlopsOf = no_flops
    elementwise: bool = False
    whole: WholeIf = never


RULES: Table[Rule] = Table("planner.rules", "operator rule")


def register(
    *primitives: str, flops: FlopsOf = no_flops, elementwise: bool = False, whole: WholeIf = never
) -> Callable[[FactorsOf], FactorsOf]:
    """Decorator: file a factors function as the rule of some primitives.

    Args:
      primitives: JAX's names of the primitives.
      flops: the FLOPs function.
      elementwise: whether the primitives are elementwise.
      whole: when the compiler runs them whole on every device.

    Raises:
      ValueError: a primitive has a rule already.
    """

    def add(factors: FactorsOf) -> FactorsOf:
        RULES.register(*primitives)(Rule(factors, flops, elementwise, whole))
        return factors

    return add
