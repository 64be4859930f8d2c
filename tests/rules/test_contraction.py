"""dot_general's factors against brute force on shards, for any dimension numbers."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.graph import Graph, Op, Value
from planner.core.spec import FactorKind
from planner.rules import flops_of, rule_of

Numbers = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


@st.composite
def products(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Numbers]:
    """Shapes of both sides, and dimension numbers that fit them, in any order of dimensions."""
    sizes = st.sampled_from([1, 2, 4, 6])
    shared = draw(st.lists(sizes, max_size=3))  # batch, then contracted
    batch = draw(st.integers(0, len(shared)))
    sides = []
    for _ in range(2):
        free = draw(st.lists(sizes, max_size=2))
        order = draw(st.permutations(range(len(shared) + len(free))))
        shape = [0] * len(order)
        for size, place in zip(shared + free, order, strict=True):
            shape[place] = size
        sides.append((tuple(shape), tuple(order[:batch]), tuple(order[batch:len(shared)])))
    (left, left_batch, left_contracted), (right, right_batch, right_contracted) = sides
    return left, right, ((left_contracted, right_contracted), (left_batch, right_batch))


def dot(x: np.ndarray, y: np.ndarray, numbers: Numbers) -> np.ndarray:
    """The product by `einsum`: batch, free of the left, free of the right."""
    (left_contracted, right_contracted), (left_batch, right_batch) = numbers
    left = list(range(x.ndim))
    right = list(range(10, 10 + y.ndim))
    for d, e in zip((*left_batch, *left_contracted), (*right_batch, *right_contracted), strict=True):
        right[e] = left[d]
    free = [left[d] for d in range(x.ndim) if d not in (*left_batch, *left_contracted)]
    free += [right[e] for e in range(y.ndim) if e not in (*right_batch, *right_contracted)]
    return np.einsum(x, left, y, right, [*(left[d] for d in left_batch), *free])


@settings(max_examples=60)
@given(products())
def test_shards_combine_to_the_product(case: tuple[tuple[int, ...], tuple[int, ...], Numbers]):
    left, right, numbers = case
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-4, 5, shape).astype(float) for shape in (left, right))
    whole = dot(x, y, numbers)
    values = tuple(Value(shape, "float32") for shape in (left, right, whole.shape))
    op = Op("dot_general", (0, 1), (2,), {"dimension_numbers": numbers})  # type: ignore[arg-type]
    graph = Graph(values, (op,), (), ())
    rule = rule_of(graph, op)
    sized = sum(1 for size in (*left, *right) if size > 1)
    shared = sum(1 for d in (*numbers[0][0], *numbers[1][0]) if left[d] > 1)
    assert len(rule.factors) == sized - shared
    for number, factor in enumerate(rule.factors):
        def cut(array: np.ndarray, binding: tuple[int | None, ...], number: int = number) -> list[np.ndarray]:
            return np.split(array, 2, axis=binding.index(number)) if number in binding else [array, array]

        pieces = [dot(a, b, numbers) for a, b in zip(cut(x, rule.operands[0]), cut(y, rule.operands[1]), strict=True)]
        if factor.kind is FactorKind.REDUCE:
            np.testing.assert_allclose(sum(pieces), whole)
        else:
            np.testing.assert_allclose(np.concatenate(pieces, axis=rule.results[0].index(number)), whole)


@settings(max_examples=15)
@given(products())
def test_numpy_and_jax_agree_on_shapes_and_flops(case: tuple[tuple[int, ...], tuple[int, ...], Numbers]):
    left, right, numbers = case
    out = jax.eval_shape(lambda x, y: jax.lax.dot_general(x, y, numbers), *(
        jax.ShapeDtypeStruct(s, np.float32) for s in (left, right)))
    assert out.shape == dot(np.ones(left), np.ones(right), numbers).shape
    values = tuple(Value(shape, "float32") for shape in (left, right, out.shape))
    op = Op("dot_general", (0, 1), (2,), {"dimension_numbers": numbers})  # type: ignore[arg-type]
    multiplies = np.prod(out.shape) * np.prod([left[d] for d in numbers[0][0]])
    assert flops_of(Graph(values, (op,), (), ()), op) == multiplies * (2 if numbers[0][0] else 1)
