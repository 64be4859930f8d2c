"""What a model family files under a name: a configuration, and how to make a network of one.

Each family module calls `register` for its sizes; `planner.models.build` turns an entry into a `planner.Model`.
"""

import dataclasses
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
          ModelError: if the configuration has no field of that name, or the family can't scan its layers.
        """
        known = tuple(f.name for f in dataclasses.fields(self.config))
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ModelError(f"model {name!r} has no setting {unknown[0]!r}", f"its settings are {', '.join(known)}")
        return self.make(dataclasses.replace(self.config, **overrides))


MODELS: Table[Entry] = Table("planner.models", "model")


def register(name: str, config: Any, make: Callable[[Any], Network]) -> None:
    """File a size of a family under a name."""
    MODELS.register(name)(Entry(config, make))
