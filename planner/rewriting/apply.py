"""A list of rewrites applied to a forward graph, in order.

In: a forward `Graph`, `Rewriting`s. Out: a `Graph` that computes the same.
"""

from collections.abc import Iterable

from planner.core.graph import Graph
from planner.core.rewriting import Rewriting
from planner.errors import RewriteError
from planner.rewrites.table import RULES
from planner.rewriting.sites import sites
from planner.rewriting.splice import replaced


def apply(graph: Graph, rewritings: Iterable[Rewriting]) -> Graph:
    """The graph with every rewrite applied, each to what those before it made.

    Raises:
      UnknownNameError: no rule is called so.
      RewriteError: a rule does not apply where it is said to.
    """
    for rewriting in rewritings:
        rule = RULES[rewriting.rule]
        found = sites(graph, rule)
        site = next((s for s in found if s.rewriting == rewriting), None)
        if site is None:
            places = "; ".join(s.rewriting.at for s in found) or "nowhere"
            raise RewriteError(f"{rewriting} does not apply to this model", f"it applies at: {places}")
        graph = replaced(graph, rule, site.matches)
    return graph
