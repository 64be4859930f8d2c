"""Pipeline schedules, one per file: in which order a rank runs the tasks of its stages and of all microbatches."""

from planner.schedules.counting import Moment as Moment
from planner.schedules.counting import in_flight as in_flight
from planner.schedules.counting import moments as moments
from planner.schedules.counting import waiting as waiting
from planner.schedules.table import SCHEDULES as SCHEDULES
from planner.schedules.table import Kind as Kind
from planner.schedules.table import Schedule as Schedule
from planner.schedules.table import Task as Task
from planner.schedules.table import TaskTimes as TaskTimes
from planner.schedules.table import Timetable as Timetable
from planner.schedules.table import dispatch_order as dispatch_order
from planner.schedules.table import predecessors as predecessors
from planner.schedules.table import tasks_of as tasks_of
