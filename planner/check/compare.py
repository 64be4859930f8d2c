"""A planned run beside the single-device run, tensor by tensor.

Three runs see the same random batches: the plan on its devices, plain JAX on one device, and plain JAX with parameters
off by a rounding error (how much of a difference means nothing). Where a kink lies in the way (a ReLU, a maximum), most
roundings change nothing and a few change much: before a tensor fails, more of them are tried. In half precision plain
JAX itself may be far off, so that a plan that is nearer to sums made in float32 passes too (`wide_sums.py`). Gradients
of the first step are read from a run of the same plan whose optimizer only writes them down. In: plan, model, devices.
Out: `CheckReport`; numbers never raise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from planner.check.inputs import random_batch, with_numbers
from planner.check.reference import Reference, StepResult
from planner.check.report import CheckReport, TensorCheck
from planner.check.wide_sums import is_half
from planner.core.plan import PlanRecord
from planner.emit.match import matching_devices
from planner.errors import PlannerError
from planner.model import Model, leaves_with_paths
from planner.rewriting.program import traced_with
from planner.runtime import compile_plan
from planner.runtime.replicated import model_of_share
from planner.trace import trace_program

TOLERANCE = MappingProxyType({"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1})
"""Relative, by the least precise floating dtype in the model: about a thousand roundings of float32, a dozen of
bfloat16, which is what sums over a few thousand terms and five steps collect."""

TF32_TOLERANCE = 2e-2
"""float32 on a GPU: its matrix products round to ten bits (TF32) unless asked otherwise."""

NOISE_RUNS = 8
"""Perturbed runs before a tensor fails. [chosen: on a graph network with maxima, 5 perturbations in 10 moved a
parameter by 1e-4 or more, the others by 6e-6]"""


@dataclass(frozen=True)
class Recorder:
    """An optimizer that changes nothing and keeps the gradient as its state."""

    @staticmethod
    def init(params: Any) -> Any:
        """Zeros like the parameters."""
        return jax.tree_util.tree_map(jax.numpy.zeros_like, params)

    @staticmethod
    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """No change; the gradient."""
        del state, params
        return jax.tree_util.tree_map(jax.numpy.zeros_like, grads), grads


def check_plan(record: PlanRecord, model: Model, devices: Sequence[jax.Device], *, steps: int = 5, seed: int = 0,
               tolerance: float | None = None, batches: Callable[[int], Any] | None = None) -> CheckReport:
    """Compare a plan's run with one device.

    Args:
      record: the plan.
      model: its model; abstract parameters are filled with random numbers.
      devices: as many as the plan is for; the first one also makes the single-device run.
      steps: how many steps, each with a fresh batch.
      seed: of all random numbers.
      tolerance: relative error allowed; by default that of the least precise dtype in the model.
      batches: step -> batch, instead of random numbers.

    Raises:
      PlanMismatchError: plan, model and devices do not belong together (wrong numbers are reported, not raised).
      PlannerError: no steps to compare.
    """
    if steps < 1:
        raise PlannerError(f"{steps} steps leave nothing to compare", "compare at least one")
    devices = matching_devices(record, devices)
    coarsest = _least_precise(record, model)
    allowed = _tolerance(coarsest, devices) if tolerance is None else tolerance
    model = with_numbers(model, seed)
    data = [batches(n) if batches is not None else random_batch(model, seed + 1 + n) for n in range(steps)]
    alone = Reference(model, record.microbatches, devices[0])
    right = alone.run(model.params, model.state, data)
    found, losses = _planned(record, model, devices, data)
    grads = _gradients(record, model, devices, data[0]) if record.kind == "train" else None
    entries: list[TensorCheck] = []
    for run in range(NOISE_RUNS):
        near = _perturbed(model, seed + run, coarsest)
        more = _judged(allowed, model, (found, right, alone.run(near.params, near.state, data)), grads, near)
        entries = [replace(e, noise=max(e.noise, m.noise)) for e, m in zip(entries or more, more, strict=True)]
        if run == 0 and not all(e.passed for e in entries) and is_half(coarsest):
            wide = Reference(model, record.microbatches, devices[0], wide_sums=True)
            truth = wide.run(model.params, model.state, data)
            off = _judged(allowed, model, (found, truth, right), grads)
            entries = [replace(e, wide_error=o.error, plain_error=o.noise) for e, o in zip(entries, off, strict=True)]
        if all(e.passed for e in entries):
            break
    return CheckReport(tuple(entries), steps, tuple((a, float(b.loss)) for a, b in zip(losses, right, strict=False)))


def _judged(tolerance: float, model: Model, runs: tuple[list[StepResult], ...], grads: Any, near: Model | None = None
            ) -> list[TensorCheck]:
    """One entry per tensor of the planned, the single-device and the perturbed run, which began from `near`; `grads` of
    the first step."""
    near = near or model
    judge, (found, right, noisy) = _Judge(tolerance), runs
    for n, (a, b, c) in enumerate(zip(found, right, noisy, strict=True)):
        judge.trees("loss", f"step {n}", a.loss, b.loss, c.loss, None)
        judge.trees("output", f"step {n}", a.outputs, _outputs(b.outputs, a.outputs), _outputs(c.outputs, a.outputs),
                    None)
    a, b, c = found[-1], right[-1], noisy[-1]
    judge.trees("parameter", "", a.params, b.params, c.params, model.params, near.params)
    judge.trees("state", "", a.state, b.state, c.state, model.state, near.state)
    judge.trees("optimizer", "", a.opt_state, b.opt_state, c.opt_state, None)
    judge.trees("gradient", "", grads, right[0].grads, noisy[0].grads, None)
    return judge.entries


def _planned(record: PlanRecord, model: Model, devices: Sequence[Any], data: Sequence[Any]
             ) -> tuple[list[StepResult], list[float]]:
    step, state = compile_plan(record, model, devices)
    results, losses = [], []
    for n, batch in enumerate(data):
        out = step(state, batch)
        metrics: Any = None
        if record.kind == "inference" and model.state is None:
            metrics = out
        elif record.kind == "inference":
            metrics, state = out
        else:
            state, metrics = out
        trained = record.kind == "train"
        losses += [float(metrics["loss"])] if trained else []
        whole = n == len(data) - 1
        results.append(StepResult(metrics["loss"] if trained else None, None, state.params if whole else None,
                                  state.opt_state if whole else None, state.state if whole else None,
                                  None if trained else metrics))
    return results, losses


def _gradients(record: PlanRecord, model: Model, devices: Sequence[Any], batch: Any) -> Any:
    recorded = replace(model, optimizer=Recorder())
    own = _of_program(record, recorded)
    step, state = compile_plan(own, recorded, devices)
    return step(state, batch)[0].opt_state


def _of_program(record: PlanRecord, model: Model) -> PlanRecord:
    """The plan as one for a model with another optimizer."""
    replicas = tuple(_of_program(r, model_of_share(record, model, n)) for n, r in enumerate(record.replicas))
    program = traced_with(model, record.microbatches, record.rewritings)
    return replace(record, fingerprint=program.fingerprint, replicas=replicas)


def _outputs(parts: Any, like: Any) -> Any:
    """Reference outputs per microbatch, put together to the shapes of the planned run's."""
    if not isinstance(parts, list):
        return parts

    def join(whole: Any, *xs: Any) -> Any:
        if xs[0].ndim and whole.shape == (sum(x.shape[0] for x in xs), *xs[0].shape[1:]):
            return np.concatenate([np.asarray(x) for x in xs])
        stacked = np.stack([np.asarray(x) for x in xs])
        return stacked.mean(0) if np.issubdtype(stacked.dtype, np.inexact) else stacked.sum(0)

    return parts[0] if len(parts) == 1 else jax.tree_util.tree_map(join, like, *parts)


def _perturbed(model: Model, seed: int, dtype: str) -> Model:
    """The model with parameters off by one rounding, up or down (a user-written step: its floating state): of their own
    dtype, or of the half precision that they are computed in."""
    rng = np.random.default_rng(seed)
    least = float(jax.numpy.finfo(dtype).eps) / 2 if is_half(dtype) else 0.0

    def shift(x: Any) -> Any:
        if not jax.numpy.issubdtype(x.dtype, np.floating):
            return x
        eps = max(float(jax.numpy.finfo(x.dtype).eps), least)
        return (np.asarray(x) * (1 + eps * rng.choice([-1.0, 1.0], np.shape(x)))).astype(x.dtype)

    name = "state" if model.is_step else "params"
    return replace(model, **{name: jax.tree_util.tree_map(shift, getattr(model, name))})


def _least_precise(record: PlanRecord, model: Model) -> str:
    """The dtype of the model that rounds most."""
    dtypes = {v.dtype for v in trace_program(model, record.microbatches).micro.values}
    return max((d for d in TOLERANCE if d in dtypes), key=TOLERANCE.__getitem__, default="float32")


def _tolerance(dtype: str, devices: Sequence[Any]) -> float:
    is_tf32 = devices[0].platform == "gpu" and dtype == "float32"
    return max(TOLERANCE[dtype], TF32_TOLERANCE) if is_tf32 else TOLERANCE[dtype]


class _Judge:
    """Collects one entry per leaf."""

    def __init__(self, tolerance: float) -> None:
        self.entries: list[TensorCheck] = []
        self._tolerance = tolerance

    def trees(self, what: str, prefix: str, found: Any, right: Any, noisy: Any, start: Any, near: Any = None) -> None:
        """Compare leaf by leaf; `start`: compare the change since then, of the noisy run since `near`."""
        if right is None or found is None:
            return
        starts, others = ([x for _, x in leaves_with_paths(x)] if x is not None else None for x in (start, near))
        rows = zip(leaves_with_paths(right), leaves_with_paths(found), leaves_with_paths(noisy), strict=True)
        for n, ((path, b), (_, a), (_, c)) in enumerate(rows):
            base, other = None if starts is None else starts[n], None if others is None else others[n]
            name = "/".join(x for x in (prefix, path) if x) or "value"
            self.entries.append(TensorCheck(what, name, _error(a, b, base), self._tolerance, _error(c, b, base, other)))


def _error(found: Any, right: Any, start: Any, other: Any = None) -> float:
    """Largest difference over the largest magnitude on the right; of a change since `start`, root mean squares: an
    optimizer that divides by the size of a gradient (Adam) makes whole steps of the noise in single elements. `other`:
    where what was found began, if elsewhere."""
    a, b = _numbers(found), _numbers(right)
    if other is not None and a.shape == b.shape:
        a = a - _numbers(other) + _numbers(start)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    size = _largest if start is None else _mean
    with np.errstate(invalid="ignore"):
        difference = size(np.abs(a - b))
    scale = size(np.abs(b if start is None else b - _numbers(start)))
    return difference / scale if scale > 0 else difference


def _largest(x: Any) -> float:
    return float(np.nan_to_num(x).max(initial=0.0))


def _mean(x: Any) -> float:
    return float(np.sqrt((np.nan_to_num(x) ** 2).mean())) if x.size else 0.0


def _numbers(x: Any) -> Any:
    if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x).astype(np.float64)
