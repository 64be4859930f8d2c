"""Runs of many processes: how they find each other, agree on what they run, and end together when one fails."""

from planner.processes.group import Group as Group
from planner.processes.group import GroupOptions as GroupOptions
from planner.processes.group import distributed as distributed
from planner.processes.watch import Limits as Limits
