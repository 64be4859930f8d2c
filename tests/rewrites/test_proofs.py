"""Every rule of the table is proved by evaluation on samples of random shapes, in float64 and with gradients."""

import pytest

from planner.rewrites import RULES
from planner.rewriting.prove import prove


@pytest.mark.parametrize("name", list(RULES))
def test_rule_computes_the_same(name: str) -> None:
    proof = prove(RULES[name], samples=2)
    assert proof.places >= proof.samples == 2
    if not RULES[name].rounding:
        assert proof.worst == 0.0
