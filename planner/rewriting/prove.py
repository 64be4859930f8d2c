"""A rule proved by evaluation: samples of random shapes in float64, before and after, with gradients.

Not a proof for all shapes, but what TASO's generator (SOSP 2019, section 2.2) trusts as well: identities of polynomials
and elementary functions that hold on random inputs to the last digits hold. Gradients are those of a random weighting
of all results, with regard to every floating input.

In: a `Rule`. Out: a `Proof`, or a `RewriteError` that says which sample failed, and by how much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Role
from planner.errors import RewriteError
from planner.interpret import run_graph
from planner.rewrites.table import Rule
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced
from planner.trace.dtypes import is_inexact
from planner.trace.jaxpr import trace_graph

TOLERANCE = 1e-9
"""Of the largest element, in float64. [chosen: rounding over some dozens of terms stays below 1e-13]"""

TOGETHER = 5
"""Samples evaluated in one program. [measured: 0.9 s a sample one by one, 0.5 s so; 2 busy cores]"""


@dataclass(frozen=True)
class Proof:
    """What was looked at: samples, places replaced in them, and the largest difference relative to the largest element.
    """

    samples: int
    places: int
    worst: float


def prove(rule: Rule, samples: int = 20, seed: int = 0) -> Proof:
    """Evaluate a rule on random samples.

    Raises:
      RewriteError: it does not apply to one of them, or changes what is computed.
    """
    places, worst = 0, 0.0
    with jax.enable_x64(True):
        for start in range(0, samples, TOGETHER):
            cases = [_case(rule, k, seed) for k in range(start, min(start + TOGETHER, samples))]
            for case, offs in zip(cases, differences(cases), strict=True):
                for site, off in zip(case.sites, offs, strict=True):
                    if not off <= _tolerance(case.before):
                        raise RewriteError(f"rewrite {rule.name!r} is wrong: at {site.rewriting.at} of its sample "
                                           f"{case.sample} of seed {seed} results or gradients differ by {off:.3g} of "
                                           f"the largest element", "mend the replacement, or the side condition that "
                                           "let it apply there")
                    places, worst = places + len(site.matches), max(worst, off)
    return Proof(samples, places, worst)


@dataclass(frozen=True)
class Case:
    """A graph, what rewrites make of it, and arrays to evaluate them on.

    Attributes:
      before, afters: graphs of the same inputs and outputs.
      args: an array per input.
      weights: an array per output, whose products with the outputs are summed to what is differentiated.
      sample, sites: where they came from.
    """

    before: Graph
    afters: tuple[Graph, ...]
    args: tuple[Any, ...]
    weights: tuple[Any, ...]
    sample: int = 0
    sites: tuple[Site, ...] = ()


def weights_of(graph: Graph, rng: np.random.Generator) -> tuple[Any, ...]:
    """Random weights for a graph's outputs."""
    return tuple(np.asarray(rng.standard_normal(graph.values[o.operand].shape)) if isinstance(o.operand, int) else 1.0
                 for o in graph.outputs)


def _case(rule: Rule, sample: int, seed: int) -> Case:
    fn, args = rule.samples(np.random.default_rng([seed, sample]))
    before = trace_graph(fn, args, [Role.BATCH] * len(args), keep_calls=True)
    found = tuple(sites(before, rule))
    if not found:
        raise RewriteError(f"rewrite {rule.name!r} does not apply to its sample {sample} of seed {seed}",
                           "its samples have to contain its pattern, and meet its side condition")
    afters = tuple(replaced(before, rule, site.matches) for site in found)
    for after in afters:
        after.check()
    weights = weights_of(before, np.random.default_rng([seed, sample, 1]))
    return Case(before, afters, tuple(map(np.asarray, args)), weights, sample, found)


def _tolerance(graph: Graph) -> float:
    """Of the largest element: what rounding may do in the narrowest floating dtype of a graph."""
    dtypes = {jnp.dtype(v.dtype) for v in graph.values if is_inexact(v.dtype)}
    return max([TOLERANCE, *(64 * float(jnp.finfo(d).eps) for d in dtypes if d != jnp.float64)])


def differences(cases: Sequence[Case]) -> list[tuple[float, ...]]:
    """For each case and each of its rewritten graphs: the largest difference between what it and the first graph
    compute, gradients with regard to all floating inputs included, relative to the largest element of each array."""

    def both(graph: Graph, arrays: Sequence[Any], weights: Sequence[Any]) -> list[Any]:
        floating = [n for n, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]

        def scalar(some: list[Any]) -> Any:
            whole = list(arrays)
            for n, a in zip(floating, some, strict=True):
                whole[n] = a
            outs = run_graph(graph, whole)
            return sum((jnp.sum(o * w) for o, w in zip(outs, weights, strict=True)
                        if jnp.issubdtype(o.dtype, jnp.floating)), jnp.zeros(())), outs

        (_, outs), grads = jax.value_and_grad(scalar, has_aux=True)([arrays[n] for n in floating])
        return [*outs, *grads]

    def every(given: list[Any]) -> list[Any]:
        return [[both(graph, *arrays) for graph in (case.before, *case.afters)]
                for case, arrays in zip(cases, given, strict=True)]

    found = jax.jit(every)([(case.args, case.weights) for case in cases])
    return [tuple(max((_off(a, b) for a, b in zip(old, new, strict=True)), default=0.0) for new in news)
            for old, *news in found]


def off(a: Any, b: Any, size: float) -> float:
    """The largest difference of two float64 arrays, relative to a size; infinite where shapes or what is finite
    differ."""
    finite = np.isfinite(a)
    if a.shape != b.shape or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    found = largest(a[finite] - b[finite])
    return found / size if found else 0.0


def largest(x: Any) -> float:
    """The largest magnitude of the finite elements of an array; 0 where there are none."""
    return float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))


def _off(a: Any, b: Any) -> float:
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return off(a, b, max(1.0, largest(a)))
