"""Pipeline schedules, one per file: in which order a stage runs forward and backward of the microbatches."""

from planner.schedules.table import SCHEDULES as SCHEDULES
from planner.schedules.table import Kind as Kind
from planner.schedules.table import Schedule as Schedule
from planner.schedules.table import Task as Task
from planner.schedules.table import dispatch_order as dispatch_order
from planner.schedules.table import predecessors as predecessors
from planner.schedules.table import tasks_of as tasks_of
