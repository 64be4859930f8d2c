"""One operator in a graph of its own, and what the compiler makes of it when a factor of its rule is sharded."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.core.graph import Graph, Op
from planner.core.spec import FactorKind, OpRule
from planner.rules import rule_of
from planner.trace.builder import Builder, Inlining

Axes = dict[int | None, str]
"""Factor -> the mesh axis that shards it."""

COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(?:-start)?\("
)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # after partitioning
TYPE = re.compile(r"\w+\[([\d,]*)\]")


def graph_of(fn: Callable[..., Any], *args: Any) -> Graph:
    """The function as a graph, with custom derivatives and checkpoints kept as operators."""
    closed = jax.make_jaxpr(fn)(*args)
    builder = Builder(Inlining(keep_calls=True))
    operands = [builder.value(v.aval) for v in closed.jaxpr.invars]
    builder.inline(closed.jaxpr, closed.consts, operands)
    return builder.graph((), ())


def find_op(graph: Graph, primitive: str) -> tuple[Graph, Op]:
    """The first operator of that name, also in nested graphs, with the graph that holds it."""
    for op in graph.ops:
        if op.primitive == primitive:
            return graph, op
        for body in op.bodies:
            try:
                return find_op(body, primitive)
            except LookupError:
                continue
    raise LookupError(f"no {primitive} among {[op.primitive for op in graph.ops]}")


def some_array(aval: Any, seed: int) -> Any:
    """An array of that type: small whole numbers that are exact in every float, or valid indices, or keys."""
    rng = np.random.default_rng(seed)
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(seed), aval.shape)
    if aval.dtype == bool:
        return jnp.asarray(rng.random(aval.shape) < 0.5)
    low = 0 if jnp.issubdtype(aval.dtype, jnp.integer) else -3
    return jnp.asarray(rng.integers(low, 4, aval.shape), aval.dtype)


def runner(op: Op) -> Callable[..., list[Any]]:
    """The operator as a function of its non-literal operands."""

    def run(*arrays: Any) -> list[Any]:
        given = iter(arrays)
        operands = [next(given) if isinstance(o, int) else o.value for o in op.operands]
        bound = op.payload
        out = bound.primitive.bind(*operands, **bound.primitive.get_bind_params(dict(bound.params)))
        return list(out) if bound.primitive.multiple_results else [out]

    return run


def spec(binding: tuple[int | None, ...], axes: Axes) -> PartitionSpec:
    """The partition spec of a tensor when some factors are sharded."""
    return PartitionSpec(*(axes.get(f) for f in binding))


@dataclass(frozen=True)
class Case:
    """One operator with its rule and arrays to run it on."""

    graph: Graph
    op: Op
    rule: OpRule

    @classmethod
    def of(cls, fn: Callable[..., Any], args: tuple[Any, ...], primitive: str) -> "Case":
        """The first operator of that name in the function's trace."""
        graph, op = find_op(graph_of(fn, *args), primitive)
        return cls(graph, op, rule_of(graph, op))

    def arrays(self) -> list[Any]:
        """Values for the non-literal operands."""
        types = [self.graph.values[v] for v in self.op.inputs]
        return [some_array(jax.ShapeDtypeStruct(t.shape, _dtype(t.dtype)), n) for n, t in enumerate(types)]

    def factors(self, kind: FactorKind) -> list[int]:
        """The factors of that kind."""
        return [n for n, f in enumerate(self.rule.factors) if f.kind is kind]

    def result_elements(self) -> int:
        """Number of elements of all results."""
        return sum(int(np.prod(self.graph.values[v].shape, dtype=int)) for v in self.op.results)


Sharded = tuple[Case, Axes]
"""An operator and how it is sharded."""


def compile_sharded(cases: list[Sharded], mesh: Mesh) -> Any:
    """One program of all the operators, each on its own operands, each sharded in its own way."""
    places, results = [], []
    for case, axes in cases:
        bindings = zip(case.op.operands, case.rule.operands, strict=True)
        places.append([NamedSharding(mesh, spec(b, axes)) for o, b in bindings if isinstance(o, int)])
        results.append([NamedSharding(mesh, spec(b, axes)) for b in case.rule.results])

    def run(operands: list[list[Any]]) -> list[list[Any]]:
        return [runner(case.op)(*arrays) for (case, _), arrays in zip(cases, operands, strict=True)]

    arrays = [case.arrays() for case, _ in cases]
    return jax.jit(run, in_shardings=(places,), out_shardings=results).lower(arrays).compile(QUICK)


def run_sharded(compiled: Any, cases: list[Sharded]) -> list[list[Any]]:
    """What the program computes, per operator."""
    (places,), _ = compiled.input_shardings
    return compiled(jax.device_put([case.arrays() for case, _ in cases], places))


def reference(cases: list[Case]) -> list[list[Any]]:
    """The same without sharding."""
    arrays = [c.arrays() for c in cases]

    def run(operands: list[list[Any]]) -> list[list[Any]]:
        return [runner(c.op)(*a) for c, a in zip(cases, operands, strict=True)]

    return jax.jit(run).lower(arrays).compile(QUICK)(arrays)


def assert_same(got: list[Any], wanted: list[Any]) -> None:
    """Equal results, up to rounding."""
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(_numbers(a), _numbers(b), rtol=1e-5, atol=1e-5)


def _numbers(x: Any) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(x))
    return np.asarray(x).astype(np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64)


def collectives(hlo: str) -> list[tuple[str, int]]:
    """(kind, number of elements of all its results) of every collective of a compiled program."""
    found = []
    for types, kind in COLLECTIVE.findall(hlo):
        sizes = [np.prod([int(n) for n in shape.split(",") if n], dtype=int) for shape in TYPE.findall(types)]
        found.append((kind, int(sum(sizes))))
    return found


def factor_places(rule: OpRule, factor: int) -> list[tuple[str, int, int]]:
    """Where a factor is bound: ("operand" or "result", index, dimension)."""
    return [(side, n, d)
            for side, bindings in (("operand", rule.operands), ("result", rule.results))
            for n, binding in enumerate(bindings)
            for d, f in enumerate(binding) if f == factor]


def _dtype(name: str) -> Any:
    return jax.random.key(0).dtype if name == "key<fry>" else np.dtype(jnp.dtype(name))
