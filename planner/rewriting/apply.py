"""A list of rewrites applied to a forward graph, in order.

In: a forward `Graph`, `Rewriting`s. Out: a `Graph` that computes the same.
"""

from collections.abc import Iterable, Iterator

from planner.core.graph import Graph
from planner.core.rewriting import Rewriting
from planner.errors import RewriteError
from planner.rewrites.table import RULES, Rule
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced


def apply(graph: Graph, rewritings: Iterable[Rewriting]) -> Graph:
    """The graph with every rewrite applied, each to what those before it made.

    Raises:
      UnknownNameError: no rule is called so.
      RewriteError: a rule does not apply where it is said to.
    """
    for _, _, after in steps(graph, rewritings):
        graph = after
    return graph


def steps(graph: Graph, rewritings: Iterable[Rewriting]) -> Iterator[tuple[Rule, Site, Graph]]:
    """The same one by one: the rule, the places, and the graph after each. Raises as `apply`."""
    for rewriting in rewritings:
        rule = RULES[rewriting.rule]
        found = sites(graph, rule)
        site = next((s for s in found if s.rewriting == rewriting), None)
        if site is None:
            places = "; ".join(s.rewriting.at for s in found) or "nowhere"
            raise RewriteError(f"{rewriting} does not apply to this model", f"it applies at: {places}")
        graph = replaced(graph, rule, site.matches)
        yield rule, site, graph
