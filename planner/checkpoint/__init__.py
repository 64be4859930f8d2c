"""Checkpoints: a run saved every few steps while it goes on, and resumed under the same plan or another one."""

from planner.checkpoint.handle import Checkpoints as Checkpoints
from planner.checkpoint.handle import Resumed as Resumed
from planner.checkpoint.handle import last_plan as last_plan
