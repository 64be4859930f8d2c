"""Attention as JAX's own function, and with its scores made again in the backward pass.

`jax.nn.dot_product_attention` is used in its XLA form. Its cuDNN form traces to a call with a derivative of its own
around a primitive that GPUs alone know, and of which no rule says how it is sharded: a plan would replicate it.
Recomputed, an attention keeps queries, keys and values for its backward pass and no scores, which are `s*t` for each
head. Source: Chen et al. 2016 (arXiv 1604.06174) for recomputation; Korthikanti et al. 2022 (arXiv 2205.05198), who
recompute attention alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Operand
from planner.rewrites.attention_form import HEAD, VALUE, Form, form_at, forms
from planner.rewrites.einsums import Letters
from planner.rewrites.pattern import Match, type_of
from planner.rewrites.recomputed import run_again
from planner.rewrites.table import rewrite

OWN = MappingProxyType({"query": f"bdca{HEAD}", "key": f"bec{HEAD}", "value": f"bec{VALUE}"})
"""How JAX's function arranges dimensions: weights are `abcde`, groups of queries first. [jax 0.10.2 and 0.11.2]"""

DTYPES = ("float32", "bfloat16", "float16")
"""In which JAX's function computes as users write it: its softmax is one of float32."""


def _fusible(graph: Graph) -> Iterator[Match]:
    """Attentions in the dtypes of JAX's function that are not what it makes already."""
    for form in forms(graph):
        if all("".join(form.letters[name]) == of for name, of in OWN.items()):
            continue
        match = form.match
        types = [match.type(name) for name in ("query", "key", "value")] + [match.result("result")]
        sizes = {x: n for name, t in zip(("query", "key", "value"), types, strict=False)
                 for x, n in zip(form.letters[name], t.shape, strict=True)}
        if len({t.dtype for t in types}) == 1 and types[0].dtype in DTYPES and sizes[HEAD] == sizes[VALUE]:
            yield match


def _attention(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, t, h, r, k = (int(n) for n in rng.integers(2, 5, 6))
    causal, biased = bool(rng.integers(2)), bool(rng.integers(2))

    def fn(q: jax.Array, key: jax.Array, v: jax.Array, bias: jax.Array) -> Any:
        scores = jnp.einsum("bsnrk,btnk->bnrst", q, key) * 0.4
        scores = scores + bias if biased else scores
        past = jnp.arange(s)[:, None] + 1 >= jnp.arange(t)[None, :]
        weights = jax.nn.softmax(jnp.where(past, scores, -1e30) if causal else scores, axis=-1)
        return jnp.einsum("bnrst,btnk->bsnrk", weights, v)

    def plain(q: jax.Array, key: jax.Array, v: jax.Array, mask: jax.Array) -> Any:
        scores = jnp.where(mask, -jnp.inf, jnp.einsum("bsk,btk->bst", q, key) / 2.0)
        return jnp.einsum("bst,btk->bsk", jax.nn.softmax(scores, axis=-1), v)

    if rng.integers(2):
        few = tuple(rng.standard_normal(shape).astype(np.float32) for shape in ((b, s, k), (b, t, k), (b, t, k)))
        return plain, (*few, np.arange(t) > rng.integers(t, size=(b, s, 1)))
    arrays = (b, s, h, r, k), (b, t, h, k), (b, t, h, k), (h, 1, s, t)
    return fn, tuple(rng.standard_normal(shape).astype(np.float32) for shape in arrays)


@rewrite("fuse_attention", "softmax(q·k)·v, scaled, biased, masked -> jax.nn.dot_product_attention", _fusible,
         samples=_attention, assumes="no query has all its keys masked; masked scores are far below all others")
def fuse_attention(match: Match, *arrays: jax.Array) -> jax.Array:
    """JAX's function, in its XLA form."""
    form, given = form_at(match), dict(zip(match.operands, arrays, strict=True))
    sizes = {x: n for name in ("query", "key", "value")
             for x, n in zip(form.letters[name], given[name].shape, strict=True)}
    letters = form.letters
    heads = [x for x in sorted(sizes) if x in letters["value"] and x in letters["query"]]
    (along,) = (x for x in letters["key"] if x not in heads and x != HEAD)
    free = sorted(x for x in letters["query"] if x not in heads and x != HEAD)
    position = _position(form, given, free, sizes)
    batch, head, group = heads[:-1], heads[-1:], [x for x in free if x != position]
    query = _merged(given["query"], letters["query"], (batch, [position], [*head, *group], [HEAD]))
    key = _merged(given["key"], letters["key"], (batch, [along], head, [HEAD]))
    value = _merged(given["value"], letters["value"], (batch, [along], head, [VALUE]))
    extra = {name: _spread(given[name], letters[name], (batch, [*head, *group], [position], [along]), sizes)
             for name in ("bias", "mask") if name in given}
    if "mask" in extra and form.masked:
        extra["mask"] = ~extra["mask"]
    out = jax.nn.dot_product_attention(query, key, value, extra.get("bias"), extra.get("mask"), scale=form.scale,
                                       implementation="xla")
    order = [*batch, position, *head, *group, VALUE]
    out = jnp.reshape(out, tuple(sizes[x] for x in order))
    return jnp.transpose(out, tuple(order.index(x) for x in form.result))


def _position(form: Form, given: Mapping[str, jax.Array], free: Sequence[str], sizes: Mapping[str, int]) -> str:
    """The letter of the queries' position: along which masks or biases differ, or the longest."""
    for name in ("mask", "bias"):
        if name in given:
            told = [x for x, n in zip(form.letters[name], given[name].shape, strict=True) if n > 1 and x in free]
            if told:
                return told[-1]
    return max(free, key=lambda x: sizes[x])


def _merged(array: jax.Array, letters: Letters, parts: Sequence[Sequence[str]]) -> jax.Array:
    """An array with a dimension for each part, whose letters are merged in order."""
    order = [x for part in parts for x in part]
    array = jnp.transpose(array, tuple(letters.index(x) for x in order))
    sizes = dict(zip(order, array.shape, strict=True))
    return jnp.reshape(array, tuple(math.prod(sizes[x] for x in part) for part in parts))


def _spread(array: jax.Array, letters: Letters, parts: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> jax.Array:
    """As `_merged` for an array that lacks letters, or has them in size 1: parts of which it has none are of size 1."""
    own = {x: n for x, n in zip(letters, array.shape, strict=True) if n > 1}
    array = jnp.reshape(array, tuple(n for n in array.shape if n > 1))
    have = [x for x in letters if x in own]
    order = [x for part in parts for x in part]
    array = jnp.transpose(array, tuple(have.index(x) for x in order if x in own))
    whole = {x: sizes[x] if not own.keys().isdisjoint(part) else 1 for part in parts for x in part}
    array = jnp.reshape(array, tuple(own.get(x, 1) for x in order))
    array = jnp.broadcast_to(array, tuple(whole[x] for x in order))
    return jnp.reshape(array, tuple(math.prod(whole[x] for x in part) for part in parts))


def _region(graph: Graph, form: Form) -> tuple[list[int], list[Operand]]:
    """The operators of an attention with those that make its masks and fillings of nothing, or by broadcasting; and
    what they read."""
    region = set(form.ops)
    todo = [v for n in form.ops for v in graph.ops[n].inputs]
    while todo:
        n = graph.producers.get(todo.pop())
        if n is not None and n not in region and (
                graph.ops[n].primitive == "broadcast_in_dim" or _of_nothing(graph, n)):
            region.add(n)
            todo += graph.ops[n].inputs
    made = {v for n in region for v in graph.ops[n].results}
    read_from = dict.fromkeys(v for n in sorted(region) for v in graph.ops[n].inputs if v not in made)
    return sorted(region), list(read_from)


def _of_nothing(graph: Graph, n: int) -> bool:
    """Whether an operator's results depend on no input of the graph."""
    makers = [graph.producers.get(v, -1) for v in graph.ops[n].inputs]
    return graph.ops[n].primitive != "dot_general" and all(m >= 0 and _of_nothing(graph, m) for m in makers)


def _recomputable(graph: Graph) -> Iterator[Match]:
    for form in forms(graph):
        _, inputs = _region(graph, form)
        large = math.prod(_scores_shape(graph, form))
        if large > max(math.prod(type_of(graph, form.match.operands[x]).shape) for x in ("query", "key", "value")):
            yield Match(graph, form.match.ops, {str(k): v for k, v in enumerate(inputs)}, {}, form.match.roots)


def _scores_shape(graph: Graph, form: Form) -> tuple[int, ...]:
    shapes = {name: type_of(graph, form.match.operands[name]).shape for name in ("query", "key")}
    sizes = {x: n for name, shape in shapes.items() for x, n in zip(form.letters[name], shape, strict=True)}
    return tuple(n for x, n in sizes.items() if x != HEAD)


def _long_attention(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, h = (int(n) for n in rng.integers(2, 4, 3))
    t = s + 4

    def fn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        near = jnp.arange(t)[None, :] < jnp.arange(t)[:, None] + 2
        scores = jnp.where(near, jnp.einsum("bshk,bthk->bhst", q, k), -1e30)
        return jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores, -1), v)

    return fn, tuple(rng.standard_normal((b, t, h, 2)) for _ in range(3))


@rewrite("recompute_attention", "an attention -> the same, its scores made again in the backward pass", _recomputable,
         samples=_long_attention, rounding=False)
def recompute_attention(match: Match, *arrays: jax.Array) -> jax.Array:
    """Nothing of the size of the scores is kept."""
    region, _ = _region(match.graph, form_at(match))
    return run_again(match, region, arrays)
