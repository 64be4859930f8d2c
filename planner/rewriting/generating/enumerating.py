"""All terms of few operators, in classes of equal ones.

Terms of n operators are made of those of fewer, one per class: what is equal to a smaller term, or to one that came
before it, is recorded as a pair and built upon no further, as any identity of what it would be part of follows from the
pair. Every term is evaluated exactly on two independent draws of its inputs; equal numbers are a class. Constants
(`x - x`) are left out. Sources: the enumeration of TASO (SOSP 2019, section 2.1); terms built of representatives,
Ruler (OOPSLA 2021).

In: operators, inputs, how many operators. Out: pairs of terms that are equal as far as their fingerprints say.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from planner.rewriting.generating.exact import SIDE, Numbers, P, evaluate
from planner.rewriting.generating.operators import Operator, Shape
from planner.rewriting.generating.terms import COMMUTATIVE, INPUTS, Term, apply, given

DRAWS = 8
"""Independent draws of inputs. [TASO: one, and a check of candidates after it]"""

MAGNITUDE = 50
"""Inputs are integers up to it: products of products of them fit. [chosen]"""

CHUNK = 1 << 15
"""Terms evaluated at once. [chosen: some ten megabytes]"""

Group = tuple[Shape, bool]
"""Shape, and whether values are residues."""


@dataclass(frozen=True)
class Known:
    """The first term of a class.

    Attributes:
      term: it.
      parts: numbers of its operators, its own included; empty for an input.
      group: what its values are.
      row: where they are among those of the group.
    """

    term: Term
    parts: frozenset[int]
    group: Group
    row: int


@dataclass(frozen=True)
class Batch:
    """Terms of one operator over known terms: numbers of those, one row per term, and their fingerprints."""

    head: str
    args: np.ndarray
    keys: np.ndarray
    numbers: Numbers


@dataclass
class Enumeration:
    """What is known so far.

    Attributes:
      operators: to build with.
      inputs: names of inputs.
      seed: of the draws.
      made: terms evaluated.
      known: first terms of classes, by number.
      values: of all known terms of a group, in rows.
      keys: fingerprint -> number, for each shape.
    """

    operators: Sequence[Operator]
    inputs: Sequence[str]
    seed: int
    made: int = 0
    known: list[Known] = field(default_factory=list[Known])
    values: dict[Group, np.ndarray] = field(default_factory=dict[Group, np.ndarray])
    keys: dict[Shape, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        self._weights: dict[int, np.ndarray] = {}
        rng = np.random.default_rng([self.seed, 0])
        for name in self.inputs:
            rank = INPUTS[name]
            array = rng.integers(-MAGNITUDE, MAGNITUDE + 1, (1, DRAWS, *[SIDE] * rank))
            numbers = Numbers(array, rank, residues=False)
            self._learn_input(name, numbers)

    def level(self, count: int, *, last: bool, tell: Callable[[float], bool]) -> Iterator[tuple[Term, Term]]:
        """Pairs (what is new, what it is equal to) of which the new term has so many operators.

        Args:
          count: operators; levels are asked for in order from 1.
          last: whether nothing will be built upon what is found, so that its values need not be kept.
          tell: told the share that is done; answers whether to go on.
        """
        batches: list[Batch] = []
        jobs = [(head, args[start:start + CHUNK]) for head, args in self._jobs(count)
                for start in range(0, len(args), CHUNK)]
        for n, (head, args) in enumerate(jobs):
            if not tell(n / len(jobs)):
                break
            batch = self._evaluated(head, args, last=last)
            if batch is not None:
                batches.append(batch)
        yield from self._sorted(batches, last=last)

    def _jobs(self, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """Operators and numbers of operands, of equal groups, that make terms of so many operators."""
        groups: dict[tuple[int, Group], list[int]] = defaultdict(list)
        for n, k in enumerate(self.known):
            groups[len(k.parts), k.group].append(n)
        arrays = {key: np.asarray(numbers) for key, numbers in groups.items()}
        pairs = [(a[1][0], b[1][0], self._apart(arrays[a], arrays[b])) for a in arrays for b in arrays
                 if a[0] + b[0] == count - 1]
        pairs += [(a[0], b[0], both) for (a, b), both in self._sharing(count).items()]
        for op in self.operators:
            if op.arity == 1:
                for (size, (shape, _)), numbers in arrays.items():
                    if size == count - 1 and op.result(shape) is not None:
                        yield op.name, numbers[:, None]
                continue
            for left, right, both in pairs:
                if op.result(left, right) is not None:
                    kept = both[both[:, 0] <= both[:, 1]] if op.name in COMMUTATIVE else both
                    if len(kept):
                        yield op.name, kept

    def _apart(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """All pairs that share no operator."""
        a, b = (x.reshape(-1) for x in np.meshgrid(left, right, indexing="ij"))
        parts = [[sorted(self.known[n].parts) for n in side] for side in (left.tolist(), right.tolist())]
        if not parts[0][0] or not parts[1][0]:
            return np.stack([a, b], 1)
        one, other = np.asarray(parts[0]), np.asarray(parts[1])
        meet = np.zeros((len(left), len(right)), bool)
        for p in range(one.shape[1]):
            for q in range(other.shape[1]):
                meet |= one[:, p, None] == other[None, :, q]
        return np.stack([a, b], 1)[~meet.reshape(-1)]

    def _sharing(self, count: int) -> dict[tuple[Group, Group], np.ndarray]:
        """Pairs that share operators and have one less than `count` together, by groups."""
        users: dict[int, list[int]] = defaultdict(list)
        for n, k in enumerate(self.known):
            for p in k.parts:
                users[p].append(n)
        found: dict[tuple[Group, Group], list[tuple[int, int]]] = defaultdict(list)
        for n, k in enumerate(self.known):
            if len(k.parts) < count:
                for m in sorted({m for p in k.parts for m in users[p]}):
                    if len(k.parts | self.known[m].parts) == count - 1:
                        found[k.group, self.known[m].group].append((n, m))
        return {groups: np.asarray(pairs) for groups, pairs in found.items()}

    def _evaluated(self, head: str, args: np.ndarray, *, last: bool) -> Batch | None:
        stacks: list[Numbers] = []
        for column in args.T:
            group = self.known[column[0]].group
            rows = [self.known[n].row for n in column.tolist()]
            stacks.append(Numbers(self.values[group][rows], len(group[0]), group[1]))
        result = evaluate(head, tuple(stacks))
        self.made += len(args)
        if result is None:
            return None
        numbers, defined = result
        within = tuple(range(1, numbers.array.ndim - 1))
        changes = (numbers.array[:, 0] != numbers.array[:, 1]).any(within) if within else \
            numbers.array[:, 0] != numbers.array[:, 1]
        kept = defined.all(1) & changes
        numbers = Numbers(numbers.array[kept], numbers.rank, numbers.residues)
        keys = self._fingerprints(numbers)
        return Batch(head, args[kept], keys, Numbers(numbers.array[:0], numbers.rank, numbers.residues)
                     if last else numbers)

    def _fingerprints(self, numbers: Numbers) -> np.ndarray:
        """A number of 60 bits per value: two random weightings modulo P."""
        flat = numbers.array.reshape(len(numbers.array), DRAWS * prod(numbers.shape())) % P
        width = flat.shape[1]
        if width not in self._weights:
            self._weights[width] = np.random.default_rng([self.seed, 1, width]).integers(1, P, (2, width))
        one, other = ((flat * w % P).sum(1) % P for w in self._weights[width])
        return one << 30 | other

    def _sorted(self, batches: Sequence[Batch], *, last: bool) -> Iterator[tuple[Term, Term]]:
        """Sort what was evaluated into classes: the first of a new class is known from now on, all others are pairs."""
        by_shape: dict[Shape, list[Batch]] = defaultdict(list)
        for batch in batches:
            by_shape[batch.numbers.shape()].append(batch)
        for shape, some in by_shape.items():
            of_key = self.keys[shape]
            olds = list(of_key.values())
            keys = np.concatenate([np.fromiter(of_key, np.int64, len(of_key)), *(b.keys for b in some)])
            _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
            first = firsts[inverse.reshape(-1)]
            starts = np.cumsum([len(olds), *(len(b.keys) for b in some)])
            yield from self._pairs(some, starts, olds, first)
            if not last:
                for batch, start in zip(some, starts, strict=False):
                    own = np.arange(start, start + len(batch.keys))
                    self._learn_all(batch, np.flatnonzero(first[own] == own))

    def _pairs(self, some: Sequence[Batch], starts: np.ndarray, olds: Sequence[int],
               first: np.ndarray) -> Iterator[tuple[Term, Term]]:
        def term(k: int) -> Term:
            if k < len(olds):
                return self.known[olds[k]].term
            b = int(np.searchsorted(starts, k, "right")) - 1
            return apply(some[b].head, *(self.known[n].term for n in some[b].args[k - starts[b]].tolist()))

        for k in np.flatnonzero(first != np.arange(len(first))).tolist():
            yield term(k), term(int(first[k]))

    def _learn_all(self, batch: Batch, rows: np.ndarray) -> None:
        group = batch.numbers.shape(), batch.numbers.residues
        stack, new = self.values.get(group), batch.numbers.array[rows]
        size = 0 if stack is None else len(stack)
        self.values[group] = new if stack is None else np.concatenate([stack, new])
        for n, row in enumerate(rows.tolist()):
            args = batch.args[row].tolist()
            number = len(self.known)
            parts = frozenset({number}.union(*(self.known[a].parts for a in args)))
            self.keys[group[0]][int(batch.keys[row])] = number
            self.known.append(Known(apply(batch.head, *(self.known[a].term for a in args)), parts, group, size + n))

    def _learn_input(self, name: str, numbers: Numbers) -> None:
        group = numbers.shape(), False
        stack = self.values.get(group)
        self.values[group] = numbers.array if stack is None else np.concatenate([stack, numbers.array])
        self.keys[group[0]][int(self._fingerprints(numbers)[0])] = len(self.known)
        self.known.append(Known(given(name), frozenset(), group, len(self.values[group]) - 1))
