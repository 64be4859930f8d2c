"""How much memory a plan takes on each device and when, operator by operator, as the compiler is going to run it."""

from planner.footprint.emitted import Emitted as Emitted
from planner.footprint.stage import MemoryCurve as MemoryCurve
from planner.footprint.stage import memory_curves as memory_curves
