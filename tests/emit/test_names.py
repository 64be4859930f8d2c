"""Names of operators in compiled programs, written and read again."""

from types import MappingProxyType

import pytest

from planner.core.graph import Op, Phase
from planner.emit.names import NamedOperator, gradient_name, named_gradient, named_operator, operator_name


def op(source: str, phase: Phase) -> Op:
    return Op("dot_general", (0,), (1,), MappingProxyType({}), (), source, phase)


@pytest.mark.parametrize("phase", list(Phase))
def test_an_operator_is_found_again(phase: Phase) -> None:
    name = operator_name(12, op("gpt.py:57 (attention)", phase))
    assert name == f"{phase.value}.12.dot_general.gpt.py#57"
    assert named_operator(f"jit(_run)/while/body/{name}/dot_general") == NamedOperator(phase, 12)
    assert operator_name(3, op("", phase)) == f"{phase.value}.3.dot_general"


def test_a_gradient_is_found_again() -> None:
    assert named_gradient(f"jit(_run)/{gradient_name('blocks/0/wq', None)}/reduce_sum") == "blocks.0.wq"
    assert gradient_name("blocks/wq", 3) == "gradient[blocks.wq.3]"


def test_other_names_tell_nothing() -> None:
    assert named_operator("jit(_run)/while/body/add") is None
    assert named_gradient("jit(_run)/forward.1.add/add") is None
