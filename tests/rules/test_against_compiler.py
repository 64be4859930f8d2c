"""Every rule against the compiler: a sharded PASS factor needs no communication, a REDUCE factor one combination, and
halos as many slices as the rule says.

Operators run on a mesh of two CPU devices with the operands and results sharded as the rule says; the compiled program
shows what the compiler had to add, and the numbers must be those of the unsharded run.
"""

import itertools
import math
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from planner.core.spec import FactorKind, Halo
from planner.rules import RULES, is_elementwise
from tests.rules.harness import (
    Axes,
    Case,
    Sharded,
    assert_same,
    collectives,
    compile_sharded,
    factor_places,
    reference,
    run_sharded,
)
from tests.rules.instances import ELEMENTWISE, INSTANCES, SINCE_0_11


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:2]), ("x",))


def test_every_rule_has_an_instance():
    elementwise = {*ELEMENTWISE, *SINCE_0_11}
    assert {*INSTANCES, *elementwise} == set(RULES)
    assert {p for p in RULES if is_elementwise(p)} == elementwise
    assert all(INSTANCES.values())


def _passing(cases: list[Case]) -> list[Sharded]:
    return [(case, {n: "x"}) for case in cases for n in case.factors(FactorKind.PASS) if not _halos(case, n)]


def _halos(case: Case, factor: int) -> list[Halo]:
    return [h for h in case.rule.halos if case.rule.operands[h.operand][h.dimension] == factor]


def _slices(case: Case, halo: Halo) -> list[tuple[str, int]]:
    """A permute for each side that there is, with the elements that a device sends, no other dimension being cut."""
    shape = case.graph.values[case.op.inputs[halo.operand]].shape
    each = math.prod(shape) // shape[halo.dimension]
    return [("collective-permute", each * slices) for slices in (halo.before, halo.after) if slices]


def _check_pass(sharded: list[Sharded], mesh: Mesh) -> None:
    """All in one program; compiled one by one only to name the culprit."""
    if not sharded:
        return
    compiled = compile_sharded(sharded, mesh)
    if collectives(compiled.as_text()):
        for case, axes in sharded:
            found = collectives(compile_sharded([(case, axes)], mesh).as_text())
            assert not found, f"{case.op.primitive}: {[factor_places(case.rule, n) for n in axes]} should pass"
    cases = list({id(case): case for case, _ in sharded}.values())
    wanted = dict(zip(map(id, cases), reference(cases), strict=True))
    for (case, _), got in zip(sharded, run_sharded(compiled, sharded), strict=True):
        assert_same(got, wanted[id(case)])


def _check_reduce(case: Case, axes: Axes, limit: int, mesh: Mesh) -> list[Any]:
    compiled = compile_sharded([(case, axes)], mesh)
    found = collectives(compiled.as_text())
    where = f"{case.op.primitive}: {[factor_places(case.rule, n) for n in axes]}"
    for sent in (s for factor in axes if factor is not None for h in _halos(case, factor) for s in _slices(case, h)):
        assert sent in found, where
        found.remove(sent)
    assert found, f"{where} should reduce, but nothing is combined"
    assert {kind for kind, _ in found} <= {"all-reduce", "reduce-scatter"}, where
    assert sum(size for _, size in found) <= limit, where
    return run_sharded(compiled, [(case, axes)])[0]


@pytest.mark.parametrize("primitive", INSTANCES)
def test_pass_factors_need_no_communication(primitive: str, mesh: Mesh):
    _check_pass(_passing([Case.of(fn, args, primitive) for fn, args in INSTANCES[primitive]]), mesh)


def test_elementwise_operators_need_no_communication(mesh: Mesh):
    cases = [Case.of(fn, args, primitive) for primitive, (fn, args) in ELEMENTWISE.items()]
    for case in cases:
        assert len(case.rule.factors) == len(case.graph.values[case.op.results[0]].shape), case.op.primitive
        assert None not in [f for binding in case.rule.results for f in binding], case.op.primitive
    # One rule serves them all, so each shows one of its factors.
    _check_pass([(case, {n % len(case.rule.factors): "x"}) for n, case in enumerate(cases)], mesh)


REDUCING = (
    "dot_general", "ragged_dot_general", "conv_general_dilated", "reduce_sum", "reduce_max", "reduce_min",
    "reduce_prod", "reduce_and", "reduce_or", "gather", "scatter-add", "scatter-min", "scatter-max", "scatter-mul",
)


@pytest.mark.parametrize("primitive", REDUCING)
def test_reduce_factors_combine_partial_results(primitive: str, mesh: Mesh):
    cases = [Case.of(fn, args, primitive) for fn, args in INSTANCES[primitive]]
    cases = [case for case in cases if case.factors(FactorKind.REDUCE)]
    for case, wanted in zip(cases, reference(cases), strict=True):
        for factor in case.factors(FactorKind.REDUCE):
            assert_same(_check_reduce(case, {factor: "x"}, case.result_elements(), mesh), wanted)


@pytest.mark.parametrize(("primitive", "n"), [
    ("dot_general", 0), ("dot_general", 1), ("conv_general_dilated", 0), ("gather", 1), ("gather", 3),
    ("scatter-add", 1), ("reshape", 1), ("sort", 1), ("scan", 0),
])
def test_two_factors_on_two_mesh_axes_do_not_disturb_each_other(primitive: str, n: int):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("x", "y"))
    fn, args = INSTANCES[primitive][n]
    case = Case.of(fn, args, primitive)
    passing = [n for n in case.factors(FactorKind.PASS) if not _halos(case, n)]
    reducing = case.factors(FactorKind.REDUCE)
    _check_pass([(case, {a: "x", b: "y"}) for a, b in itertools.combinations(passing, 2)], mesh)
    (wanted,) = reference([case])
    for a, b in itertools.product(passing, reducing):
        halved = any(a in binding for binding in case.rule.results)
        limit = case.result_elements() // (2 if halved else 1)
        assert_same(_check_reduce(case, {a: "x", b: "y"}, limit, mesh), wanted)


WITHOUT_HALO = (13, 15)
"""Windows that tile the image, and convolutions in groups of several features, which run whole."""


@pytest.mark.parametrize("n", range(len(INSTANCES["conv_general_dilated"])))
def test_halos_are_the_slices_that_the_compiler_exchanges(n: int, mesh: Mesh):
    fn, args = INSTANCES["conv_general_dilated"][n]
    case = Case.of(fn, args, "conv_general_dilated")
    if not case.rule.halos:
        assert n in WITHOUT_HALO
        return
    (halo,) = case.rule.halos
    factor = case.rule.operands[halo.operand][halo.dimension]
    compiled = compile_sharded([(case, {factor: "x"})], mesh)
    found = [c for c in collectives(compiled.as_text()) if c[0] != "all-reduce"]
    assert sorted(found) == sorted(_slices(case, halo))
    assert_same(run_sharded(compiled, [(case, {factor: "x"})])[0], reference([case])[0])


def test_only_the_listed_operators_reduce():
    for primitive, instances in INSTANCES.items():
        reduces = [Case.of(fn, args, primitive).factors(FactorKind.REDUCE) for fn, args in instances]
        assert any(reduces) == (primitive in REDUCING), primitive


def test_where_the_compiler_runs_an_operator_whole_the_rule_shards_nothing():
    for primitive, instances in INSTANCES.items():
        for fn, args in instances:
            case = Case.of(fn, args, primitive)
            ins = tuple(case.graph.values[v] for v in case.op.inputs)
            outs = tuple(case.graph.values[v] for v in case.op.results)
            if RULES[primitive].whole(case.op, ins, outs):
                assert not case.rule.factors
