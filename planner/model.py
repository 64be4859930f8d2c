"""What the user hands in: a function, its parameters (real or abstract), an example batch, an optimizer, and state.

Flows in: the user's callables and pytrees. Flows out: `Model`, read by `trace/`. Nothing is traced or allocated here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from planner.errors import ModelError


class Optimizer(Protocol):
    """optax's `GradientTransformation`: any object with these two functions."""

    @property
    def init(self) -> Callable[..., Any]: ...

    @property
    def update(self) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Model:
    """A model to plan. Leaves of `params`, `batch` and `state` are arrays or `jax.ShapeDtypeStruct`s.

    The function's form follows from what is given:

    | given | form of `fn` |
    | --- | --- |
    | optimizer | `fn(params, batch) -> loss` or `(loss, aux)` |
    | optimizer, state | `fn(params, state, batch) -> (loss, new_state)` or `(loss, new_state, aux)` |
    | neither | `fn(params, batch) -> outputs` (inference) |
    | state | `fn(params, state, batch) -> (outputs, new_state)` (inference with state) |
    | is_step=True | `fn(state, batch) -> (state, aux)`; `params` is None, `state` is the training state |

    The loss is a scalar and a mean over the batch, so that the mean of the microbatches' losses is the loss of the
    batch; pass `loss_reduction="sum"` if it is a sum.

    Attributes:
      fn: see above.
      params: parameter pytree.
      batch: example batch; dimension 0 of every leaf is the batch dimension, except leaves named in `unbatched`.
      optimizer: an optax gradient transformation, or None.
      state: pytree carried from step to step beside the parameters, or None.
      name: for tables and plan files.
      loss_reduction: `"mean"` or `"sum"`.
      unbatched: paths of batch leaves without a batch dimension (given whole to every microbatch), e.g. `("mask",)`.
      is_step: `fn` is a whole train step written by the user.
    """

    fn: Callable[..., Any]
    params: Any
    batch: Any
    optimizer: Optimizer | None = None
    state: Any = None
    name: str = "model"
    loss_reduction: str = "mean"
    unbatched: tuple[str, ...] = ()
    is_step: bool = False

    @property
    def kind(self) -> str:
        """`"train"`, `"inference"` or `"step"`."""
        return "step" if self.is_step else "train" if self.optimizer is not None else "inference"

    @property
    def batch_size(self) -> int:
        """Size of the batch dimension, shared by every batched leaf.

        Raises:
          ModelError: if the batch is empty or its leaves disagree.
        """
        sizes = {path: leaf.shape[0] for path, leaf in leaves_with_paths(self.batch)
                 if path not in self.unbatched and leaf.shape}
        if not sizes:
            raise ModelError("the batch has no leaf with a batch dimension",
                             "give arrays whose dimension 0 is the batch")
        if len(set(sizes.values())) > 1:
            raise ModelError(f"batch leaves disagree on dimension 0: {sizes}",
                             "make dimension 0 the batch everywhere, or name the others in Model(unbatched=(...))")
        return next(iter(sizes.values()))


def train_step(fn: Callable[..., Any], state: Any, batch: Any, name: str = "train step") -> Model:
    """A train step the user wrote, `fn(state, batch) -> (state, metrics)`, with `jax.grad` and the optimizer inside."""
    return Model(fn, None, batch, state=state, name=name, is_step=True)


def leaves_with_paths(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) for every leaf, the path with `/` between keys: `"blocks/0/wq"`; the root leaf has path ""."""
    return [(path_text(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def path_text(path: tuple[Any, ...]) -> str:
    """A pytree key path as text."""
    parts = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                parts.append(str(getattr(key, attribute)))
                break
        else:
            parts.append(str(key))
    return "/".join(parts)


def abstract(tree: Any) -> Any:
    """The same pytree with `jax.ShapeDtypeStruct` leaves."""
    return jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct(jax.numpy.shape(x), jax.dtypes.result_type(x))
                                  if not hasattr(x, "shape") else jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
