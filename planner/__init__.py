"""planner: give it a JAX model and a device mesh, get the fastest way to run it there, explained and runnable."""

from types import MappingProxyType
from typing import TYPE_CHECKING

from planner.front import lazy

if TYPE_CHECKING:
    from planner.adapters import from_equinox as from_equinox
    from planner.adapters import from_linen as from_linen
    from planner.adapters import from_nnx as from_nnx
    from planner.api import compare as compare
    from planner.api import plan as plan
    from planner.cache.store import Cache as Cache
    from planner.checkpoint import Checkpoints as Checkpoints
    from planner.core.hardware import Cluster as Cluster
    from planner.core.pins import Pins as Pins
    from planner.errors import PlannerError as PlannerError
    from planner.model import Model as Model
    from planner.model import train_step as train_step
    from planner.planned import Plan as Plan
    from planner.planned import load as load
    from planner.processes import distributed as distributed
    from planner.profiles import cluster as cluster
    from planner.replanning import replan as replan
    from planner.sweeping.grid import Training as Training
    from planner.sweeping.run import Terms as Terms
    from planner.sweeping.run import sweep as sweep
    from planner.whatif.changes import what_if as what_if
    from planner.whatif.tensor import why as why

NAMES = MappingProxyType({
    "from_equinox": "planner.adapters",
    "from_linen": "planner.adapters",
    "from_nnx": "planner.adapters",
    "compare": "planner.api",
    "plan": "planner.api",
    "Cache": "planner.cache.store",
    "Checkpoints": "planner.checkpoint",
    "Cluster": "planner.core.hardware",
    "Pins": "planner.core.pins",
    "PlannerError": "planner.errors",
    "Model": "planner.model",
    "train_step": "planner.model",
    "Plan": "planner.planned",
    "load": "planner.planned",
    "distributed": "planner.processes",
    "cluster": "planner.profiles",
    "replan": "planner.replanning",
    "Training": "planner.sweeping.grid",
    "Terms": "planner.sweeping.run",
    "sweep": "planner.sweeping.run",
    "what_if": "planner.whatif.changes",
    "why": "planner.whatif.tensor",
})
"""Public name -> where it is from: what the block above says, for when it runs."""

__getattr__ = lazy(__name__, NAMES)
