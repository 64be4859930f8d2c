"""Models written in a framework, as `planner.Model`s: Flax NNX, Flax Linen, Equinox. None of them need be installed.

Each adapter turns a module and the user's loss into a pure function of parameters, state and batch. A framework is
imported when its adapter is first asked for.
"""

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from planner.errors import ModelError

if TYPE_CHECKING:
    from planner.adapters.equinox import equinox_module as equinox_module
    from planner.adapters.equinox import from_equinox as from_equinox
    from planner.adapters.linen import from_linen as from_linen
    from planner.adapters.linen import linen_variables as linen_variables
    from planner.adapters.nnx import from_nnx as from_nnx
    from planner.adapters.nnx import nnx_module as nnx_module

ADAPTERS = MappingProxyType({
    "from_nnx": ("nnx", "flax"), "nnx_module": ("nnx", "flax"),
    "from_linen": ("linen", "flax"), "linen_variables": ("linen", "flax"),
    "from_equinox": ("equinox", "equinox"), "equinox_module": ("equinox", "equinox"),
})
"""Public name -> (module of this package, distribution that it needs)."""


def __getattr__(name: str) -> Any:
    if name not in ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, framework = ADAPTERS[name]
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != framework:
            raise
        raise ModelError(f"{name} needs {framework}, which is not installed", f"pip install {framework}") from error


def __dir__() -> list[str]:
    return sorted(ADAPTERS)
