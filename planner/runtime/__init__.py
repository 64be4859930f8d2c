"""Running a plan: on one stage as one jitted step, on several as a pipeline of stages."""

from planner.runtime.compile import compile_plan as compile_plan
from planner.runtime.loop import Loop as Loop
from planner.runtime.loop import LoopOptions as LoopOptions
from planner.runtime.profiling import Trace as Trace
from planner.runtime.state import RunState as RunState
