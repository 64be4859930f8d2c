"""Terms evaluated exactly, many at once, so that equal numbers mean equal terms.

Inputs are small integers, and so are results as long as they fit 63 bits: `relu` compares them. From the first quotient
or exponential on, numbers are residues modulo a prime P. `exp` takes residues modulo Q to powers of an element of order
Q modulo P, where P = 2Q + 1: sums become products as they shall, and an exponential of an exponential has no value.
Source: fingerprints on integers, TASO (SOSP 2019, section 2.2); exponentials over two prime fields, Mirage (OSDI 2025,
section 5).

In: operators and stacks of arrays, leading dimensions first. Out: stacks of arrays, what is undefined marked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

Q = 536_870_219
P = 1_073_740_439
"""Primes, P = 2Q + 1 and below 2^30: a product of two residues fits 63 bits. [the largest such pair with Q < 2^29]"""

ROOT = 4
"""A square, so of order Q modulo P."""

LARGEST = 2**62
"""Integers above may not fit."""

SIDE = 4
"""Size of every dimension of inputs, and what vectors are repeated to: even, so that it has halves, which are no
ones."""


@dataclass(frozen=True)
class Numbers:
    """A stack of arrays of one shape.

    Attributes:
      array: int64; the last `rank` dimensions are the value's.
      rank: number of dimensions of a value.
      residues: whether they are residues modulo P instead of integers.
    """

    array: np.ndarray
    rank: int
    residues: bool

    def as_residues(self) -> "Numbers":
        """The same modulo P."""
        return self if self.residues else Numbers(self.array % P, self.rank, residues=True)

    def shape(self) -> tuple[int, ...]:
        """Of one value."""
        return self.array.shape[self.array.ndim - self.rank:]

    def size(self) -> int:
        """The largest magnitude."""
        return int(np.max(np.abs(self.array), initial=0))


def power(base: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Residues modulo P to powers, by squaring."""
    out, base = np.ones(np.broadcast_shapes(base.shape, exponents.shape), np.int64), base % P
    while exponents.any():
        out = np.where(exponents & 1, out * base % P, out)
        base, exponents = base * base % P, exponents >> 1
    return out


def evaluate(head: str, args: tuple[Numbers, ...]) -> tuple[Numbers, np.ndarray] | None:
    """An operator on stacks of operands, value by value.

    Returns:
      The stack of results, and for each value of the leading dimensions whether it is defined; None where the operator
      is defined on integers alone and a stack is of residues.
    """
    defined = np.ones(np.broadcast_shapes(*(_leading(a) for a in args)), bool)
    if head in ("relu", "exp"):
        if args[0].residues:
            return None
        residues = head == "exp"
    else:
        residues = any(a.residues for a in args) or head in ("div", "inverse") or _bound(head, args) > LARGEST
        args = tuple(a.as_residues() for a in args) if residues else args
    if head in ("div", "inverse"):
        divisor = args[-1]
        within = tuple(range(divisor.array.ndim - divisor.rank, divisor.array.ndim))
        defined = defined & (divisor.array != 0).all(within)
    out, rank = _result(head, args, residues=residues)
    return Numbers(out, rank, residues), defined


def _leading(numbers: Numbers) -> tuple[int, ...]:
    return numbers.array.shape[:numbers.array.ndim - numbers.rank]


def _bound(head: str, args: tuple[Numbers, ...]) -> int:
    sizes = [a.size() for a in args]
    match head:
        case "matmul":
            return sizes[0] * sizes[1] * args[0].shape()[-1]
        case "mul" | "scale":
            return sizes[0] * sizes[1]
        case "sum0" | "sum1":
            return sizes[0] * max(args[0].shape())
        case _:
            return sum(sizes)


def _result(head: str, args: tuple[Numbers, ...], *, residues: bool) -> tuple[np.ndarray, int]:
    """An operator's array and its rank."""
    first, last, rank = args[0].array, args[-1].array, args[-1].rank
    if head == "matmul":
        return _product(args, residues=residues), args[0].rank + args[1].rank - 2
    if head in _ELEMENT_BY_ELEMENT:
        out = _ELEMENT_BY_ELEMENT[head](first, last)
    elif head == "scale":
        out = first.reshape(*first.shape, *[1] * rank) * last
    elif head in ("sum0", "sum1"):
        out, rank = first.sum(int(head[-1]) - rank), rank - 1
    elif head in ("rows", "columns"):
        at = -2 if head == "rows" else -1
        out, rank = np.repeat(np.expand_dims(first, at), SIDE, at), 2
    else:
        out = _moved(head, args)
    return (out % P if residues else out), rank


_ELEMENT_BY_ELEMENT: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType({
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a * power(b, np.asarray(P - 2)),
    "neg": lambda a, _: -a,
    "inverse": lambda a, _: power(a, np.asarray(P - 2)),
    "exp": lambda a, _: power(np.asarray(ROOT), a % Q),
    "relu": lambda a, _: np.maximum(a, 0),
})
"""Of integers or residues, before they are reduced; an operator of one operand is given it twice."""


def _moved(head: str, args: tuple[Numbers, ...]) -> np.ndarray:
    first = args[0].array
    if head == "transpose":
        return np.swapaxes(first, -1, -2)
    axis = int(head[-1]) - args[0].rank
    if head.startswith("join"):
        lead = np.broadcast_shapes(_leading(args[0]), _leading(args[1]))
        return np.concatenate([np.broadcast_to(a.array, lead + a.shape()) for a in args], axis)
    half = first.shape[axis] // 2
    return np.take(first, range(half) if head.startswith("first") else range(half, 2 * half), axis)


def _product(args: tuple[Numbers, ...], *, residues: bool) -> np.ndarray:
    """A matrix product, reduced after each step: sums of eight products of residues would not fit."""
    left = args[0].array if args[0].rank == 2 else args[0].array[..., None, :]
    right = args[1].array if args[1].rank == 2 else args[1].array[..., None]
    out = np.zeros(1, np.int64)
    for k in range(left.shape[-1]):
        out = out + left[..., :, k, None] * right[..., k, None, :]
        out = out % P if residues else out
    if args[0].rank == 1:
        out = out[..., 0, :]
    return out[..., 0] if args[1].rank == 1 else out
