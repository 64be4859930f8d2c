"""A rule proved by evaluation: samples of random shapes in float64, before and after, with gradients.

Not a proof for all shapes, but what TASO's generator (SOSP 2019, section 2.2) trusts as well: identities of polynomials
and elementary functions that hold on random inputs to the last digits hold. Gradients are those of a random weighting
of all results, with regard to every floating input.

In: a `Rule`. Out: a `Proof`, or a `RewriteError` that says which sample failed, and by how much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Role
from planner.errors import RewriteError
from planner.interpret import run_graph
from planner.rewrites.table import Rule
from planner.rewriting.sites import sites
from planner.rewriting.splice import replaced
from planner.trace.jaxpr import trace_graph

TOLERANCE = 1e-9
"""Of the largest element, in float64. [chosen: rounding over some dozens of terms stays below 1e-13]"""


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
        for k in range(samples):
            fn, args = rule.samples(np.random.default_rng([seed, k]))
            before = trace_graph(fn, args, [Role.BATCH] * len(args), keep_calls=True)
            found = sites(before, rule)
            if not found:
                raise RewriteError(f"rewrite {rule.name!r} does not apply to its sample {k} of seed {seed}",
                                   "its samples have to contain its pattern, and meet its side condition")
            for site in found:
                after = replaced(before, rule, site.matches)
                after.check()
                off = difference(before, after, args, np.random.default_rng([seed, k, 1]))
                if not off <= TOLERANCE:
                    raise RewriteError(f"rewrite {rule.name!r} is wrong: at {site.rewriting.at} of its sample {k} of "
                                       f"seed {seed} results or gradients differ by {off:.3g} of the largest element",
                                       "mend the replacement, or the side condition that let it apply there")
                places, worst = places + len(site.matches), max(worst, off)
    return Proof(samples, places, worst)


def difference(before: Graph, after: Graph, args: Sequence[Any], rng: np.random.Generator) -> float:
    """The largest difference between what two graphs of the same inputs compute, gradients included, relative to the
    largest element of each array."""
    arrays = [jnp.asarray(a) for a in args]
    floating = [n for n, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]
    weights = [jnp.asarray(rng.standard_normal(before.values[o.operand].shape)) if isinstance(o.operand, int) else 1.0
               for o in before.outputs]

    def both(graph: Graph) -> Callable[[list[Any]], Any]:
        def scalar(some: list[Any]) -> Any:
            whole = list(arrays)
            for n, a in zip(floating, some, strict=True):
                whole[n] = a
            outs = run_graph(graph, whole)
            return sum((jnp.sum(o * w) for o, w in zip(outs, weights, strict=True)
                        if jnp.issubdtype(o.dtype, jnp.floating)), jnp.zeros(())), outs
        return jax.value_and_grad(scalar, has_aux=True)

    (_, old), old_grads = jax.jit(both(before))([arrays[n] for n in floating])
    (_, new), new_grads = jax.jit(both(after))([arrays[n] for n in floating])
    return max((_off(a, b) for a, b in zip([*old, *old_grads], [*new, *new_grads], strict=True)), default=0.0)


def _off(a: Any, b: Any) -> float:
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    a, b = np.where(np.isfinite(a), a, 0), np.where(np.isfinite(b), b, 0)
    return float(np.max(np.abs(a - b), initial=0.0) / max(1.0, np.max(np.abs(a), initial=0.0)))
