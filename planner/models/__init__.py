"""The model zoo: reference models by name, in plain JAX, one family a file, at any size without allocating anything.

`build("gpt-39b", batch_size=1024)` is a `planner.Model` with abstract parameters, ready to plan. It also carries the
declarations that its parameters came from, so that `init`, `init_state` and `random_batch` make real arrays for a size
that fits the machine. Parameters are float32; `dtype` is what the model computes in.
"""

from dataclasses import dataclass, field
from typing import Any

from planner.errors import ModelError
from planner.model import Model, Optimizer
from planner.models.declare import abstract_batch, abstract_params, draw_batch, draw_params, parameter_count
from planner.models.table import MODELS, Network

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class ZooModel(Model):
    """A `Model` that also knows the `network` it was made of."""

    network: Network = field(kw_only=True, repr=False)

    @property
    def parameter_count(self) -> int:
        """Number of parameters."""
        return parameter_count(self.params)


def names() -> tuple[str, ...]:
    """The names of all models, sorted."""
    return tuple(MODELS)


def build(name: str, *, batch_size: int, dtype: str = "bfloat16", optimizer: Optimizer | None = None,
          scan_layers: bool = False, inference: bool = False, **overrides: Any) -> ZooModel:
    """A model of the zoo, with abstract parameters.

    Args:
      name: one of `names()`.
      batch_size: size of dimension 0 of every batch leaf.
      dtype: one of `DTYPES`: what activations and matrix products are computed in; parameters are float32. float16 is
        for GPUs whose matrix units know no bfloat16 (V100); the loss is not scaled.
      optimizer: an optax gradient transformation; AdamW at 3e-4 if None.
      scan_layers: stack the parameters of equal layers and run them by `jax.lax.scan`.
      inference: the forward function alone, without loss and optimizer.
      overrides: other fields of the family's configuration, e.g. `layers=2`.

    Raises:
      UnknownNameError: there is no model of that name.
      ModelError: a setting is impossible, or optax is needed and not installed.
    """
    if batch_size < 1:
        raise ModelError(f"the batch size of {name!r} is {batch_size}", "give a positive batch size")
    if dtype not in DTYPES:
        raise ModelError(f"model {name!r} can't compute in {dtype!r}", f"choose {' or '.join(DTYPES)}")
    network = MODELS[name].network(name, dtype=dtype, scan_layers=scan_layers, **overrides)
    if not inference and optimizer is None:
        optimizer = default_optimizer()
    return ZooModel(
        fn=network.forward if inference else network.loss,
        params=abstract_params(network.params),
        batch=abstract_batch(network.batch, batch_size),
        optimizer=None if inference else optimizer,
        state=None if network.state is None else abstract_params(network.state),
        name=name,
        network=network,
    )


def init(model: ZooModel | str, seed: int = 0, **settings: Any) -> Any:
    """Real float32 parameters for a model, or for the name of one (then with `build`'s settings)."""
    return draw_params(_network(model, settings).params, seed)


def init_state(model: ZooModel | str, **settings: Any) -> Any:
    """The real state of a model before its first step; None if it carries none."""
    state = _network(model, settings).state
    return None if state is None else draw_params(state, 0)


def random_batch(model: ZooModel, seed: int = 0, batch_size: int | None = None) -> Any:
    """A batch of random arrays in the ranges the model reads; as many rows as the model's own batch unless told."""
    return draw_batch(model.network.batch, batch_size or model.batch_size, seed)


def default_optimizer() -> Optimizer:
    """AdamW at a learning rate of 3e-4.

    Raises:
      ModelError: optax is not installed.
    """
    try:
        import optax  # only here: planner itself works without it
    except ImportError as error:
        raise ModelError("the default optimizer is optax's AdamW, and optax is not installed",
                         "`pip install optax`, or give build(optimizer=...)") from error
    return optax.adamw(3e-4)


def _network(model: ZooModel | str, settings: dict[str, Any]) -> Network:
    if isinstance(model, str):
        return MODELS[model].network(model, **settings)
    if settings:
        raise ModelError(f"model {model.name!r} is built; {sorted(settings)[0]!r} can't be changed any more",
                         "give settings to build, or give the model's name")
    return model.network
