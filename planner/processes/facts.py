"""What a process runs with: versions, the planner's own code, flags that change programs, the plan.

In: nothing, or a plan's record and its devices. Out: name -> short text, to compare (`agree`).
"""

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax

from planner.core import plan_io
from planner.core.plan import PlanRecord

_FLAGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion", "jax_default_prng_impl",
          "jax_threefry_partitionable", "jax_use_shardy_partitioner", "jax_disable_most_optimizations",
          "jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
"""Options of JAX that change what is compiled or computed."""


def of_process() -> dict[str, str]:
    """What must be the same before anything is computed."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    flags = ", ".join(f"{name}={getattr(jax.config, name)}" for name in _FLAGS if hasattr(jax.config, name))
    return {"Python": platform.python_version(), **versions, "the planner's code": code(), "options": flags}


def of_plan(record: PlanRecord, devices: Sequence[Any]) -> dict[str, str]:
    """What must be the same of a plan about to run."""
    order = ",".join(f"{d.process_index}:{d.id}" for d in devices)
    mine = next(d for d in devices if d.process_index == jax.process_index())
    return {"a plan with checksum": _digest(plan_io.to_json(record).encode()), "the model": record.model_name[:200],
            "devices in an order with checksum": _digest(order.encode()),
            "devices of kind": f"{mine.platform} {mine.device_kind}"[:200]}


@cache
def code() -> str:
    """A checksum of this package's source."""
    root = Path(__file__).parent.parent
    files = sorted(root.rglob("*.py"))
    return "checksum " + _digest(b"".join(p.relative_to(root).as_posix().encode() + p.read_bytes() for p in files))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
