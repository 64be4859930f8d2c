"""How each operator may be sharded, and what it costs in FLOPs: one file per operator family, discovered."""

from planner.rules.lookup import (
    flops_by_op as flops_by_op,
)
from planner.rules.lookup import (
    flops_of as flops_of,
)
from planner.rules.lookup import (
    graph_flops as graph_flops,
)
from planner.rules.lookup import (
    has_rule as has_rule,
)
from planner.rules.lookup import (
    is_elementwise as is_elementwise,
)
from planner.rules.lookup import (
    main_dtype as main_dtype,
)
from planner.rules.lookup import (
    rule_of as rule_of,
)
from planner.rules.lookup import (
    rules_of as rules_of,
)
from planner.rules.lookup import (
    warnings_of as warnings_of,
)
from planner.rules.once import RuleTable as RuleTable
from planner.rules.table import RULES as RULES
from planner.rules.table import Rule as Rule
from planner.rules.table import register as register
