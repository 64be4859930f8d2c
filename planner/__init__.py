"""planner: give it a JAX model and a device mesh, get the fastest way to run it there, explained and runnable."""

from planner.adapters import from_equinox as from_equinox
from planner.adapters import from_linen as from_linen
from planner.adapters import from_nnx as from_nnx
from planner.api import compare as compare
from planner.api import plan as plan
from planner.core.hardware import Cluster as Cluster
from planner.core.pins import Pins as Pins
from planner.errors import PlannerError as PlannerError
from planner.model import Model as Model
from planner.model import train_step as train_step
from planner.planned import Plan as Plan
from planner.planned import load as load
from planner.profiles import cluster as cluster
