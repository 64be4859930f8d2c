"""Algebraic rewrites of a forward graph, one family a file: dropping a file in is the whole registration.

See `table.py` for what a rule is, `pattern.py` for how it says where it applies. `planner/rewriting/` finds and applies
them.
"""

from planner.rewrites.pattern import Call as Call
from planner.rewrites.pattern import Match as Match
from planner.rewrites.pattern import Number as Number
from planner.rewrites.pattern import Siblings as Siblings
from planner.rewrites.pattern import Var as Var
from planner.rewrites.table import RULES as RULES
from planner.rewrites.table import Rule as Rule
from planner.rewrites.table import rewrite as rewrite
