"""A plan's step by event simulation, knowing nothing of the search: timeline, bubble, overlap, memory over time."""

from planner.simulate.events import run as run
from planner.simulate.events import simulate as simulate
from planner.simulate.timeline import Interval as Interval
from planner.simulate.timeline import MemoryCurve as MemoryCurve
from planner.simulate.timeline import StageLine as StageLine
from planner.simulate.timeline import Stream as Stream
from planner.simulate.timeline import Timeline as Timeline
from planner.simulate.timeline import Work as Work
from planner.simulate.work import StageWork as StageWork
from planner.simulate.work import forward_share as forward_share
from planner.simulate.work import stage_works as stage_works
from planner.simulate.work import uniform as uniform
