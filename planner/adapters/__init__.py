"""Models written in a framework, as `planner.Model`s: Flax NNX, Flax Linen, Equinox. None of them need be installed.

Each adapter turns a module and the user's loss into a pure function of parameters, state and batch. A framework is
imported when a function of its adapter is called, not before: these here only pass on what they are given.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from planner.errors import ModelError
from planner.model import Model, Optimizer


def from_nnx(module: Any, loss_fn: Callable[..., Any], batch: Any, optimizer: Optimizer | None = None,
             **settings: Any) -> Model:
    """A `Model` of a Flax NNX module; `loss_fn(module, batch)`. See `planner.adapters.nnx.from_nnx`."""
    return _adapter("nnx", "flax").from_nnx(module, loss_fn, batch, optimizer, **settings)


def nnx_module(module: Any, params: Any, state: Any = None, **settings: Any) -> Any:
    """The NNX module with the parameters of a run put in. See `planner.adapters.nnx.nnx_module`."""
    return _adapter("nnx", "flax").nnx_module(module, params, state, **settings)


def from_linen(module: Any, variables: Mapping[str, Any], loss_fn: Callable[..., Any], batch: Any,
               optimizer: Optimizer | None = None, **settings: Any) -> Model:
    """A `Model` of a Flax Linen module; `loss_fn(apply, batch)`. See `planner.adapters.linen.from_linen`."""
    return _adapter("linen", "flax").from_linen(module, variables, loss_fn, batch, optimizer, **settings)


def linen_variables(params: Any, state: Any = None) -> dict[str, Any]:
    """Linen variables with the parameters of a run. See `planner.adapters.linen.linen_variables`."""
    return _adapter("linen", "flax").linen_variables(params, state)


def from_equinox(module: Any, loss_fn: Callable[..., Any], batch: Any, optimizer: Optimizer | None = None,
                 **settings: Any) -> Model:
    """A `Model` of an Equinox module; `loss_fn(module, batch)`. See `planner.adapters.equinox.from_equinox`."""
    return _adapter("equinox", "equinox").from_equinox(module, loss_fn, batch, optimizer, **settings)


def equinox_module(module: Any, params: Any) -> Any:
    """The Equinox module with the parameters of a run put in. See `planner.adapters.equinox.equinox_module`."""
    return _adapter("equinox", "equinox").equinox_module(module, params)


def _adapter(name: str, framework: str) -> Any:
    try:
        return importlib.import_module(f"planner.adapters.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != framework:
            raise
        raise ModelError(f"this needs {framework}, which is not installed", f"pip install {framework}") from error
