"""The same training, by plain JAX on one device: `jax.value_and_grad` of the user's function and the user's optimizer.

It shares no code with tracing, planning or running. Microbatches are runs of consecutive examples; their gradients are
added in the accumulation dtype and averaged (or summed); state goes from one to the next. In: a `Model` with numbers.
Out: what each step gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.check.wide_sums import with_wide_sums
from planner.model import Model, leaves_with_paths


@dataclass(frozen=True)
class StepResult:
    """After one step: loss (None but for training), gradients, parameters, optimizer state, state, outputs (not for
    training)."""

    loss: Any
    grads: Any
    params: Any
    opt_state: Any
    state: Any
    outputs: Any


class Reference:
    """The model on one device, compiled once. `wide_sums`: sums of half precision are made in float32."""

    def __init__(self, model: Model, microbatches: int, device: Any, *, wide_sums: bool = False) -> None:
        def step(*args: Any) -> tuple[Any, ...]:
            return _step(model, microbatches, *args)

        self._model, self._device = model, device
        self._step = jax.jit(with_wide_sums(step) if wide_sums else step)

    def run(self, params: Any, state: Any, batches: Sequence[Any]) -> list[StepResult]:
        """One step per batch, from these parameters and this state."""
        with jax.default_device(self._device):
            params, state = self._on_device(params), self._on_device(state)
            opt_state = self._model.optimizer.init(params) if self._model.optimizer is not None else None
            results = []
            for batch in batches:
                result = StepResult(*self._step(params, opt_state, state, self._on_device(batch)))
                params, opt_state, state = result.params, result.opt_state, result.state
                results.append(result)
        return results

    def _on_device(self, tree: Any) -> Any:
        return jax.tree_util.tree_map(lambda x: jax.device_put(x, self._device), tree)


def _step(model: Model, microbatches: int, params: Any, opt_state: Any, state: Any, batch: Any) -> tuple[Any, ...]:
    if model.is_step:
        state, outputs = model.fn(state, batch)
        return None, None, params, opt_state, state, outputs
    parts = [_part(model, batch, m, microbatches) for m in range(microbatches)]
    if model.optimizer is None:
        return _inference(model, params, state, parts)
    return _train(model, params, opt_state, state, parts)


def _train(model: Model, params: Any, opt_state: Any, state: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
    def loss_of(params: Any, state: Any, part: Any) -> tuple[Any, Any]:
        out = model.fn(params, part) if model.state is None else model.fn(params, state, part)
        if not isinstance(out, tuple):
            return out, state
        return out[0], (state if model.state is None else out[1])

    sums = jax.tree_util.tree_map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
    losses = []
    for part in parts:
        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params, state, part)
        sums = jax.tree_util.tree_map(lambda s, g: s + g, sums, grads)
        losses.append(loss)
    n = len(parts) if model.loss_reduction == "mean" else 1
    grads = jax.tree_util.tree_map(lambda s, p: (s / n).astype(p.dtype), sums, params)
    assert model.optimizer is not None
    updates, opt_state = model.optimizer.update(grads, opt_state, params)
    new = jax.tree_util.tree_map(lambda p, u: p if u is None else (p + u).astype(p.dtype), params, updates,
                                 is_leaf=lambda x: x is None)
    return sum(losses[1:], losses[0]) / n, grads, new, opt_state, state, None


def _inference(model: Model, params: Any, state: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
    outputs = []
    for part in parts:
        if model.state is None:
            outputs.append(model.fn(params, part))
        else:
            out, state = model.fn(params, state, part)
            outputs.append(out)
    return None, None, params, None, state, outputs


def _part(model: Model, batch: Any, m: int, microbatches: int) -> Any:
    if microbatches == 1:
        return batch
    leaves = [x if path in model.unbatched or not x.shape else
              x[m * (x.shape[0] // microbatches):(m + 1) * (x.shape[0] // microbatches)]
              for path, x in leaves_with_paths(batch)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(batch), leaves)
