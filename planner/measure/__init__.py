"""Timing this machine: what `planner measure` does, and what a plan for local devices rests on."""

from planner.measure.machine import BUDGET_S as BUDGET_S
from planner.measure.machine import local_cluster as local_cluster
from planner.measure.machine import measure as measure
