"""The package's front: public names that are imported when they are first asked for.

`import planner` imports JAX only once something needs it, so that `planner --help`, `planner show` and `planner plot`
start in a fraction of the time. In: name -> the module that defines it. Out: the package's `__getattr__` (PEP 562).
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from planner.garbage import seldom_collected


def lazy(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package's `__getattr__` is when its names live in these modules.

    Args:
      package: the package's dotted name, for the error.
      names: public name -> dotted name of the module that has it.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with seldom_collected():
            return getattr(importlib.import_module(names[name]), name)

    return find
