"""Exact numbers keep the identities of the operators they stand for."""

import numpy as np
import pytest

from planner.rewriting.generating.exact import LARGEST, ROOT, Numbers, P, Q, evaluate, power


def numbers(*shape: int, seed: int = 0) -> Numbers:
    return Numbers(np.random.default_rng(seed).integers(-50, 51, (3, *shape)), len(shape), residues=False)


def result(head: str, *args: Numbers) -> Numbers:
    found = evaluate(head, args)
    assert found is not None
    return found[0]


def test_the_moduli_are_primes_and_the_root_is_of_order_q() -> None:
    for prime in (P, Q):
        assert all(prime % d for d in range(2, int(prime ** 0.5) + 1))
    assert P == 2 * Q + 1
    assert pow(ROOT, Q, P) == 1 != ROOT


def test_powers_are_python_s() -> None:
    bases, exponents = np.asarray([3, P - 1, 12345]), np.asarray([0, 7, P - 2])
    assert power(bases, exponents).tolist() == [pow(b, e, P) for b, e in zip(bases.tolist(), exponents.tolist(),
                                                                             strict=True)]


def test_exponentials_turn_sums_into_products_and_differences_into_quotients() -> None:
    a, b = numbers(4, 4), numbers(4, 4, seed=1)
    for inside, outside in (("add", "mul"), ("sub", "div")):
        one = result("exp", result(inside, a, b))
        np.testing.assert_array_equal(one.array, result(outside, result("exp", a), result("exp", b)).array)


def test_an_exponential_of_a_quotient_has_no_value_and_neither_has_its_sign() -> None:
    quotient = result("div", numbers(4), numbers(4, seed=1))
    assert evaluate("exp", (quotient,)) is None
    assert evaluate("relu", (quotient,)) is None


def test_what_is_divided_by_zero_is_not_defined() -> None:
    divisor = Numbers(np.asarray([[1, 2], [0, 3]]), 1, residues=False)
    found = evaluate("div", (divisor, divisor))
    assert found is not None
    assert found[1].tolist() == [True, False]


def test_integers_that_may_not_fit_become_residues_and_stay_right() -> None:
    large = Numbers(np.full((1, 4, 4), 2**33), 2, residues=False)
    product = result("matmul", large, large)
    assert LARGEST < 4 * 2**66 and product.residues
    assert product.array.flat[0] == 4 * 2**66 % P
    assert not result("matmul", numbers(4, 4), numbers(4, 4)).residues


@pytest.mark.parametrize(("left", "right"), [((4, 4), (4, 4)), ((4, 4), (4,)), ((4,), (4, 4))])
def test_products_are_numpy_s(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = numbers(*left), numbers(*right, seed=1)
    expected = np.stack([x @ y for x, y in zip(a.array, b.array, strict=True)])
    np.testing.assert_array_equal(result("matmul", a, b).array, expected)
    np.testing.assert_array_equal(result("matmul", a.as_residues(), b).array, expected % P)
