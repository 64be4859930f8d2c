"""Rules proved where they apply in a model: loss, results and gradients before and after, in float64, on random inputs.

Each class of places by itself: the graph is rewritten there, differentiated as every program is, and evaluated beside
the one that was not. `prove.py` sees a rule in samples made for it; here types, numbers and what else reads a value are
those of the model.

In: a `Program`, arrays for its inputs, some times over. Out: `PlaceProof`s.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from planner.core.graph import Graph, Literal, Program, Role
from planner.core.rewriting import Rewriting
from planner.interpret import run_graph
from planner.model import Model, leaves_with_paths
from planner.rewrites.table import RULES, Rule
from planner.rewriting.float64 import in_float64
from planner.rewriting.prove import largest, off
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced
from planner.trace import ReverseRules, program_of, split_params
from planner.trace.dtypes import dtype_of, is_inexact

TOLERANCE = 1e-9
"""Of the largest element of each array, in float64. [chosen: rounding was 3e-14 at most in the zoo]"""

LITTLE = 1e-5
"""Of the largest element of all arrays of a role: an array of smaller ones is held to that size, as it may be zero but
for rounding (the gradient of a bias that a norm takes away). [chosen: with `TOLERANCE`, some dozens of roundings]"""

Results = Mapping[tuple[Role, str, int | None], Any]
"""What a program computes: loss, state, other results, and for each parameter its gradient, by role, path and row."""


@dataclass(frozen=True)
class PlaceProof:
    """One class of places: how many they are, and the largest difference that rewriting them makes, relative to the
    largest element of each array, and may: `TOLERANCE`, or what a number that is rounded to half precision (a scale
    before a cast) may make."""

    rewriting: Rewriting
    places: int
    worst: float
    allowed: float = TOLERANCE

    @property
    def is_right(self) -> bool:
        """Whether that is rounding."""
        return self.worst <= self.allowed


def prove_places(program: Program, samples: Sequence[Sequence[Any]], rules: Iterable[Rule] | None = None
                 ) -> Iterator[PlaceProof]:
    """Every class of places of some rules, all unless told, in a model, rewritten by itself.

    Args:
      program: the model's, in any dtype.
      samples: some times an array for each input of its forward graph.
      rules: those to prove.
    """
    found = [(rule, site) for rule in rules or [RULES[n] for n in RULES] for site in sites(program.forward, rule)]
    before, reverse = results(program, samples), ReverseRules()
    for rule, site in found:
        other = _rewritten(program, rule, site, reverse)
        worst = max(difference(a, b) for a, b in zip(before, results(other, samples), strict=True))
        yield PlaceProof(site.rewriting, len(site.matches), worst, _allowed(program.forward, other.forward))


def arrays_for(program: Program, model: Model, batch: Any) -> list[Any]:
    """An array for each input of a program's forward graph, of one microbatch: a model's own, and a batch's."""
    params = [] if model.is_step else split_params(program, model.params)
    named = dict(zip(program.forward.inputs_of(Role.PARAM), params, strict=True))
    rest = {(role, path): leaf for role, tree in ((Role.STATE, model.state), (Role.BATCH, batch))
            for path, leaf in leaves_with_paths(tree)}
    return [named[i] if i in named else rest[i.role, i.path] for i in program.forward.inputs]


def results(program: Program, samples: Sequence[Sequence[Any]]) -> list[Results]:
    """What one microbatch of a program computes of each sample, in float64."""

    def run(*given: Any) -> list[Any]:
        return list(named_results(program.micro, run_graph(program.micro, given)).values())

    with jax.enable_x64(True):
        keys, compiled = named_results(program.micro, [0] * len(program.micro.outputs)), jax.jit(in_float64(run))
        return [dict(zip(keys, map(_numbers, compiled(*arrays)), strict=True)) for arrays in samples]


def named_results(graph: Graph, values: Sequence[Any]) -> dict[tuple[Role, str, int | None], Any]:
    """A graph's results by name; what operators contribute to the gradient of a parameter is added up."""
    found: dict[tuple[Role, str, int | None], Any] = {}
    for out, value in zip(graph.outputs, values, strict=True):
        key = (out.role, out.path, out.row)
        found[key] = found[key] + value if key in found else value
    return found


def difference(before: Results, after: Results) -> float:
    """The largest, relative to the largest element of each array; infinite where shapes or what is finite differ."""
    if before.keys() != after.keys():
        return float("inf")
    sizes = {key: largest(x) for key, x in before.items()}
    by_role = {role: max(s for (r, _, _), s in sizes.items() if r is role) for role, _, _ in sizes}
    return max(off(x, after[key], max(sizes[key], LITTLE * by_role[key[0]])) for key, x in before.items())


def _rewritten(program: Program, rule: Rule, site: Site, reverse: ReverseRules) -> Program:
    forward = replaced(program.forward, rule, site.matches)
    forward.check()
    return program_of(program.kind, forward, program.microbatches, program.update, reverse)


def _allowed(before: Graph, after: Graph) -> float:
    """Twice what rounding changes a number by, where one of half precision is new; else `TOLERANCE`."""
    known = set(_written(before))
    return max([TOLERANCE, *(float(jax.numpy.finfo(d).eps) for x, d in _written(after)
                             if (x, d) not in known and jax.numpy.finfo(d).bits < 32)])


def _written(graph: Graph) -> Iterator[tuple[float, Any]]:
    """Floating numbers in a graph, with the dtypes that they are read or cast to."""
    for op in graph.ops:
        for literal in (o for o in op.operands if isinstance(o, Literal)):
            dtype = graph.values[op.results[0]].dtype if op.primitive == "convert_element_type" else literal.dtype
            if is_inexact(literal.dtype) and is_inexact(dtype) and np.ndim(literal.value) == 0:
                yield float(literal.value), dtype_of(dtype)


def _numbers(x: Any) -> Any:
    is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).astype(np.float64)
