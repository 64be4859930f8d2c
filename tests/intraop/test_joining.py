"""Groups joined class by class, against unifying the dimensions of all their operators."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import models
from planner.intraop.dims import unify
from planner.intraop.structure import joint_of
from planner.program_index import index_program
from planner.trace import trace_program


@cache  # traced by the first example, not by every worker that collects
def indexed(name):
    return index_program(trace_program(models.build(name, batch_size=4, dtype="float32"), 1))


def alike(found, expected):
    """Whether the same dimensions are tied together, and may be sharded by as many."""
    number = {}
    return found.of.keys() == expected.of.keys() and \
        all(number.setdefault(c, expected.of[key]) == expected.of[key] for key, c in found.of.items()) and \
        len(set(number.values())) == len(number) and \
        all(found.size[c] == expected.size[of] for c, of in number.items())


@pytest.mark.parametrize("name", ["gpt-tiny", "moe-tiny", "wresnet-tiny"])
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_joined_classes_are_those_of_all_operators(name, data):
    """Whatever is taken in, one after the other, the classes are those of the union; it is refused exactly where an
    operator would have two factors in one class, or what could be sharded comes to be sharded by fewer."""
    index = indexed(name)
    micro, origins = index.program.micro, sorted(index.by_origin)
    start = data.draw(st.integers(0, len(origins) - 8))
    units = data.draw(st.permutations([list(index.by_origin[o]) for o in origins[start:start + 8]]))
    members, joint = units[0], joint_of(index, units[0])
    for unit in units[1:]:
        parts = [unify(micro, ops, index.rules, index.owner) for ops in (members, unit)]
        whole = unify(micro, members + unit, index.rules, index.owner)
        fewer = any(whole.size[whole.of[key]] < part.size[c] for part in parts for key, c in part.of.items())
        taken = joint.take(joint_of(index, unit))
        assert taken == (not whole.conflict and not fewer)
        if taken:
            members = members + unit
            assert alike(joint, whole)
        else:
            assert alike(joint, parts[0])
