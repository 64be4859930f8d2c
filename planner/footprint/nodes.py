"""A function of the emitted graph as the compiler sees it before fusion: tensors of one device, and nodes between them.

Operators become nodes of a few kinds, each result as large as its shard on one device. What the plan only implies is
written out: collectives where a value changes its sharding, and the transposed copies of operands that a matrix product
can't read in place.

In: operators of an `Annotated` graph, the sharding of every value. Out: `Nodes`.
Source: XLA's instruction fusion and dot decomposer, read off compiled programs (jax 0.10.2, CPU).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType

from planner.core.graph import Graph, Op, Operand, Value
from planner.core.plan import HOST
from planner.core.spec import Spec, axes_of
from planner.costs.collectives import ALL_REDUCE, REDUCE_SCATTER
from planner.costs.memory import itemsize, shard_bytes, value_bytes
from planner.costs.reshard_recipe import recipe
from planner.emit.payloads import InMemory
from planner.footprint.compilers import OTHER, Compiler, split_k
from planner.footprint.kinds import Kind, kind_of
from planner.footprint.products import in_common, is_foldable, is_read_as_is, order_of

MOVES = frozenset({"reshape", "squeeze", "expand_dims", "transpose", "slice", "dynamic_slice", "pad",
                   "rev", "concatenate", "gather", "broadcast_in_dim"})
"""Operators whose results can't take the place of their operands."""

PRODUCTS = frozenset({"mul", "square", "integer_pow"})
"""Operators that a reduction takes in."""

WIDENED = frozenset({"dot_general", "conv_general_dilated"})
"""Operators that XLA on CPU computes in float32."""

_SUMMING = MappingProxyType({ALL_REDUCE: Kind.ALL_REDUCE, REDUCE_SCATTER: Kind.REDUCE_SCATTER})

IN_PLACE = frozenset({"scatter", "scatter-add", "scatter_add", "dynamic_update_slice"})
"""Operators that write over their first operand where nobody else reads it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A result on one device: bytes, dtype's bytes, and the node that makes it (-1: it comes from outside)."""

    bytes: int
    item: int
    node: int

    @property
    def elements(self) -> int:
        return self.bytes // self.item


@dataclass(frozen=True, slots=True)
class Node:
    """`operands` and `results` are indices of tensors; `op` is the operator it came from; `product`: a multiplication,
    which a reduction takes in; `over`: it may write over its first operand; `moves`: its elements come from other
    places of its operands."""

    kind: Kind
    operands: tuple[int, ...]
    results: tuple[int, ...]
    op: int
    product: bool = False
    over: bool = False
    moves: bool = False


@dataclass
class Nodes:
    """Nodes in order, and their tensors; `joined`: tensors that are parts of one, by what makes it; `shown`: whether
    nodes say which operator they come from."""

    nodes: list[Node] = field(default_factory=list[Node])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    joined: dict[object, list[int]] = field(default_factory=dict[object, list[int]])
    shown: bool = True

    def given(self, size: int, item: int) -> int:
        """A tensor from outside."""
        self.tensors.append(Tensor(size, item, -1))
        return len(self.tensors) - 1

    def add(self, kind: Kind, operands: Sequence[int], results: Sequence[tuple[int, int]], op: int, *,
            product: bool = False, over: bool = False, moves: bool = False) -> tuple[int, ...]:
        """A node with results of these (bytes, bytes of an element); gives their tensors."""
        first = len(self.tensors)
        self.tensors += [Tensor(size, item, len(self.nodes)) for size, item in results]
        made = tuple(range(first, len(self.tensors)))
        self.nodes.append(Node(kind, tuple(operands), made, op if self.shown else -1, product, over, moves))
        return made


@dataclass
class Lowering:
    """A graph becoming nodes, on one device of a mesh.

    Attributes:
      graph, mesh_shape: what is lowered, and where.
      spec: value -> its settled sharding.
      made: operator -> per result, the sharding that it is made in, and the axes it is still to be summed over.
      uses: (operator, operand position) -> sharding that an operand is needed in.
      scatters: whether reduce-scatters run as such.
      compiler: what it is compiled by.
      beside: how many products read an operand in the same way, to results of the same shape: they become one.
    """

    graph: Graph
    mesh_shape: tuple[int, ...]
    spec: Callable[[int], Spec]
    made: Callable[[int], Sequence[tuple[Spec, frozenset[int]]]]
    uses: Callable[[int, int], Spec | None]
    scatters: bool
    beside: Mapping[tuple[object, ...], int]
    compiler: Compiler = OTHER
    nodes: Nodes = field(default_factory=Nodes)
    at: dict[int, int] = field(default_factory=dict[int, int])
    _copies: dict[tuple[int, object], int] = field(default_factory=dict[tuple[int, object], int])

    def give(self, value: int) -> int:
        """A value that comes from outside, in its settled sharding."""
        typed = self.graph.values[value]
        self.at[value] = self.nodes.given(self._bytes(typed, self.spec(value)), itemsize(typed.dtype))
        return self.at[value]

    def run(self, n: int) -> None:
        """Lower one operator."""
        op = self.graph.ops[n]
        operands = [self._operand(n, k, o) for k, o in enumerate(op.operands)]
        known = [t for t in operands if t is not None]
        if op.primitive == "dot_general":
            known = self._dot_operands(op, operands, n)
        made = self.made(n)
        if op.primitive in IN_PLACE and len(op.operands) == 3:
            made, known = self._scattered(op, n, made[0], known)
        sizes = [(self._bytes(self.graph.values[r], spec), itemsize(self.graph.values[r].dtype))
                 for r, (spec, _) in zip(op.results, made, strict=True)]
        parts = self._parts(op, n, made[0][0]) if op.primitive == "dot_general" else 1
        if self.compiler.widens and op.primitive in WIDENED and sizes[0][1] == 2:
            results = self._widened(known, sizes[0], n)
        elif parts > 1:
            results = self._in_parts(op, known, sizes[0], parts, n)
        elif op.primitive == "optimization_barrier":
            results = [self.nodes.add(Kind.VIEW, [t], [(min(size, self.nodes.tensors[t].bytes), item)], n)[0]
                       for t, (size, item) in zip(known, sizes, strict=True)]
        elif isinstance(op.payload, InMemory):
            away = op.payload.memory == HOST
            results = self.nodes.add(Kind.HEAVY, known, [(0 if away else size, item) for size, item in sizes], n)
        else:
            results = self.nodes.add(kind_of(op, self.compiler), known, sizes, n, product=op.primitive in PRODUCTS,
                                     over=op.primitive in IN_PLACE, moves=op.primitive in MOVES)
            if op.primitive == "dot_general" and self.compiler.splits_sums and self._merged(op) > 1:
                key = max((in_common(self.graph, op, k) for k in (0, 1)), key=self.beside.__getitem__)
                self.nodes.joined.setdefault(key, []).extend(results)
        for r, t, (spec, partial) in zip(op.results, results, made, strict=True):
            self.at[r] = self.moved(t, self.graph.values[r], spec, self.spec(r), partial, n)

    def _widened(self, operands: Sequence[int], size: tuple[int, int], n: int) -> tuple[int, ...]:
        """A product of 16-bit numbers: on float32 copies of its operands, its result rounded."""
        wide: list[int] = []
        for t in operands:
            known = self.nodes.tensors[t]
            wide.append(t if known.item != 2 else self._once(-1 - t, "float32", lambda t=t, known=known: self.nodes.add(
                Kind.CHEAP, [t], [(2 * known.bytes, 4)], n)[0]))
        made = self.nodes.add(Kind.HEAVY, wide, [(2 * size[0], 4)], n)
        return self.nodes.add(Kind.CHEAP, made, [size], n)

    def _in_parts(self, op: Op, operands: Sequence[int], size: tuple[int, int], parts: int, n: int) -> tuple[int, ...]:
        """A product whose sums are computed in float32 parts; where products are merged, every reader adds its own."""
        partial = self.nodes.add(Kind.HEAVY, operands, [(parts * size[0] // size[1] * 4, 4)], n)
        kind = Kind.CHEAP if self._merged(op) > 1 else Kind.DEAR
        return self.nodes.add(kind, partial, [size], n, moves=True)

    def _parts(self, op: Op, n: int, spec: Spec) -> int:
        """Parts that the sums of a product of two matrices are computed in."""
        contract, batch = op.params["dimension_numbers"]
        left, right = op.operands
        if not self.compiler.splits_sums or not isinstance(left, int) or not isinstance(right, int):
            return 1
        typed = self.graph.values[left]
        where = self.uses(n, 0) or self.spec(left)
        own = [-(-length // prod(self.mesh_shape[a] for a in axes))
               for length, axes in zip(typed.shape, where, strict=True)]
        depth, rows = prod(own[d] for d in contract[0]), prod(own) // prod(own[d] for d in contract[0])
        result = self.graph.values[op.results[0]]
        whole = self._bytes(result, spec) // itemsize(result.dtype)
        if any(own[d] > 1 for d in batch[0]):
            return 1
        return split_k(rows * self._merged(op), max(1, whole // rows), depth)

    def _merged(self, op: Op) -> int:
        """Products that become one with this, it included."""
        return max(self.beside[in_common(self.graph, op, k)] for k in (0, 1))

    def _scattered(self, op: Op, n: int, made: tuple[Spec, frozenset[int]], known: list[int]
                   ) -> tuple[Sequence[tuple[Spec, frozenset[int]]], list[int]]:
        """A scatter is done in shards of its result if they are along the axes that its updates are cut along, and it
        is less to gather the updates than to add up the results. What it adds to is cut as the result is."""
        spec, partial = made
        settled, result, updates = self.spec(op.results[0]), self.graph.values[op.results[0]], op.operands[2]
        if partial and isinstance(updates, int) and partial <= axes_of(settled) \
                and value_bytes(self.graph.values[updates]) < value_bytes(result):
            typed, cut = self.graph.values[updates], self.spec(updates)
            whole = tuple(tuple(a for a in axes if a not in partial) for axes in cut)
            known = [*known[:-1], self.moved(known[-1], typed, cut, whole, frozenset(), n)]
            spec, partial = settled, frozenset()
        start = self.nodes.tensors[known[0]]
        if start.node >= 0 and self.nodes.nodes[start.node].kind is Kind.BROADCAST:
            size = self._bytes(result, spec)
            known = [*self.nodes.add(Kind.BROADCAST, [], [(size, start.item)], n), *known[1:]]
        return [(spec, partial)], known

    def _bytes(self, value: Value, spec: Spec) -> int:
        return shard_bytes(value, spec, self.mesh_shape)

    def _operand(self, n: int, position: int, operand: Operand) -> int | None:
        if not isinstance(operand, int):
            return None
        wanted = self.uses(n, position)
        if operand not in self.at:
            self.give(operand)
        if wanted is None:
            return self.at[operand]
        return self._once(operand, wanted, lambda: self.moved(
            self.at[operand], self.graph.values[operand], self.spec(operand), wanted, frozenset(), n))

    def _once(self, value: int, what: object, make: Callable[[], int]) -> int:
        if (value, what) not in self._copies:
            self._copies[value, what] = make()
        return self._copies[value, what]

    def moved(self, tensor: int, value: Value, now: Spec, to: Spec, partial: frozenset[int], n: int) -> int:
        """A tensor in another sharding, by the collectives that take it there."""
        if now == to and not partial:
            return tensor
        whole, item = value_bytes(value), itemsize(value.dtype)
        for kind, axes, share in recipe(now, to, partial, self.mesh_shape,
                                        reduce_scatter_as_all_reduce=not self.scatters):
            size = -(-whole // share)
            if kind == REDUCE_SCATTER:
                size = -(-size // prod(self.mesh_shape[a] for a in axes))
            if kind == ALL_REDUCE and self.compiler.widens and item == 2:  # 16-bit numbers are added up in float32
                tensor = self.nodes.add(Kind.CHEAP, [tensor], [(2 * size, 4)], n)[0]
                tensor = self.nodes.add(Kind.ALL_REDUCE, [tensor], [(2 * size, 4)], n)[0]
                tensor = self.nodes.add(Kind.CHEAP, [tensor], [(size, item)], n)[0]
            else:
                made_by = _SUMMING.get(kind, Kind.HEAVY)
                tensor = self.nodes.add(made_by, [tensor], [(size, item)], n)[0]
        if self.nodes.tensors[tensor].bytes > self._bytes(value, to):
            tensor = self.nodes.add(Kind.CHEAP, [tensor], [(self._bytes(value, to), item)], n, moves=True)[0]
        return tensor

    def _dot_operands(self, op: Op, operands: Sequence[int | None], n: int) -> list[int]:
        """Operands as a product of matrices reads them, [batch, rows, sum] · [batch, sum, columns]: reshaped, or a
        transposed copy."""
        contract, batch = op.params["dimension_numbers"]
        shapes = [self.graph.values[o].shape if isinstance(o, int) else o.shape for o in op.operands]
        found: list[int] = []
        for k, t in enumerate(operands):
            if t is None:
                continue
            order = order_of(len(shapes[k]), contract[k], batch[k], last=k == 0)
            if not is_foldable(len(shapes[k]), contract[k], batch[k]):
                as_is = is_read_as_is(shapes[k], contract[k], batch[k], last=k == 0,
                                      transposed=self.compiler.reads_transposed)
                typed, kind = self.nodes.tensors[t], Kind.VIEW if as_is else Kind.CHEAP
                found.append(self._once(-1 - t, order, lambda t=t, typed=typed, kind=kind: self.nodes.add(
                    kind, [t], [(typed.bytes, typed.item)], n, moves=True)[0]))
            else:
                found.append(t)
        return found
