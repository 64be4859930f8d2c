"""General shapes, what is equal for them, and identities made as general as they are true."""

from planner.rewriting.generating.operators import text
from planner.rewriting.generating.sizes import letters, shapes_of, written
from planner.rewriting.generating.terms import Term, apply, given, inputs_of
from planner.rewriting.generating.truth import most_general, shapes_where_equal

X, Y, Z, W, U = (given(name) for name in "xyzwu")


def said(left: Term, right: Term) -> dict[str, str]:
    shapes = shapes_of(left, right)
    names = letters(shapes)
    return {name: written(shapes[given(name)], names) for name in inputs_of(left, right)}


def test_shapes_are_as_general_as_both_sides_allow() -> None:
    product = apply("matmul", X, apply("transpose", Y))
    assert said(product, product) == {"x": "m×k", "y": "n×k"}
    joined = apply("matmul", apply("join1", X, Y), apply("join0", Z, W))
    apart = apply("add", apply("matmul", X, Z), apply("matmul", Y, W))
    assert said(joined, apart) == {"x": "m×k", "y": "m×n", "z": "k×p", "w": "n×p"}


def test_halves_make_sizes_even() -> None:
    half = apply("first0", X)
    assert said(half, half) == {"x": "2m×k"}
    assert said(apply("first0", apply("join0", X, Y)), X) == {"x": "m×k", "y": "m×k"}


def test_what_is_true_for_squares_only_is_not_equal() -> None:
    assert shapes_where_equal(apply("matmul", X, Y), apply("matmul", Y, X), 0) is None
    assert shapes_where_equal(apply("transpose", apply("matmul", X, Y)),
                              apply("matmul", apply("transpose", Y), apply("transpose", X)), 0) is not None


def test_a_vector_repeated_nobody_says_how_often_makes_no_rule() -> None:
    assert shapes_where_equal(apply("sum1", apply("columns", U)), apply("add", U, U), 0) is None


def test_an_instance_becomes_the_identity_it_is_an_instance_of() -> None:
    xy = apply("matmul", X, Y)
    left, right = apply("matmul", apply("add", xy, xy), Z), apply("add", apply("matmul", xy, Z), apply("matmul", xy, Z))
    found = most_general(left, right, 0)
    assert {text(side) for side in found} == {"(x + y) @ z", "(x @ z) + (y @ z)"}


def test_what_is_only_true_of_one_input_stays_so() -> None:
    square = apply("mul", X, X)
    left, right = most_general(apply("relu", square), square, 0)
    assert (text(left), text(right)) == ("relu(x * x)", "x * x")
