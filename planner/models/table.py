"""What a model family files under a name: a configuration, and how to make a network of one.

Each family module calls `register` for its sizes; `planner.models.build` turns an entry into a `planner.Model`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.errors import ModelError
from planner.models.declare import Field
from planner.registry import Table


@dataclass(frozen=True)
class Network:
    """A network of fixed sizes, as declarations and pure functions.

    Attributes:
      params: pytree of `Param`.
      batch: name -> `Field`.
      loss: `loss(params, batch) -> loss`, or `loss(params, state, batch) -> (loss, state)` where there is state;
        a scalar float32 mean over the batch.
      forward: `forward(params, batch) -> outputs`, or `forward(params, state, batch) -> (outputs, state)`.
      state: pytree of `Param` carried beside the parameters, or None.
    """

    params: Any
    batch: dict[str, Field]
    loss: Callable[..., Any]
    forward: Callable[..., Any]
    state: Any = None


@dataclass(frozen=True)
class Entry:
    """A size of a family. `config` is a frozen dataclass with at least `dtype` and `scan_layers`."""

    config: Any
    make: Callable[[Any], Network]

    def network(self, name: str, **overrides: Any) -> Network:
        """The network of this size, with fields of its configuration replaced.

        Raises:
          ModelError: if the configuration has no field of that name, a value can't be, or the family can't scan its
            layers.
        """
        known = tuple(f.name for f in dataclasses.fields(self.config))
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ModelError(f"model {name!r} has no setting {unknown[0]!r}", f"its settings are {', '.join(known)}")
        for key, value in overrides.items():
            _check_setting(name, key, value, getattr(self.config, key))
        return self.make(dataclasses.replace(self.config, **overrides))


def _check_setting(model: str, key: str, value: Any, example: Any) -> None:
    """A setting has the type of the one it replaces; sizes are at least 1, where none (0) is not there by default."""
    if isinstance(example, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(example, int):
        least = 0 if example == 0 else 1
        fits, wanted = isinstance(value, int) and not isinstance(value, bool) and value >= least, \
            f"a whole number of at least {least}"
    elif isinstance(example, float):
        fits, wanted = isinstance(value, int | float) and 0 <= value < math.inf, "a number of at least 0"
    elif isinstance(example, str):
        fits, wanted = isinstance(value, str), "a name"
    else:
        fits, wanted = isinstance(value, type(example)), f"a {type(example).__name__}, given in Python"
    if not fits:
        raise ModelError(f"setting {key!r} of model {model!r} is {value!r}", f"give {wanted}, e.g. {example}")


MODELS: Table[Entry] = Table("planner.models", "model")


def register(name: str, config: Any, make: Callable[[Any], Network]) -> None:
    """File a size of a family under a name."""
    MODELS.register(name)(Entry(config, make))
