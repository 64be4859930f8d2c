"""Rewriting forward graphs by the rules of `planner/rewrites/`: where they apply, what they make of a graph, and which
of them make the step faster on a cluster."""
