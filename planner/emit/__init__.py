"""A plan and a model as JAX code with sharding annotations; the runtime drives what is made here."""

from planner.emit.annotate import annotate as annotate
from planner.emit.annotate import in_shardings as in_shardings
