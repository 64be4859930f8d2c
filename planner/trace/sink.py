"""Move operators on parameters alone down to where their results are first read.

Users often cast all parameters in one line at the top of the loss. Left there, every cast would belong to the first
layer and every cast parameter would cross every layer; sunk, each belongs to the layer that uses it. Order is all that
changes.

In: a forward `Graph`. Out: the same graph with its operators in another valid order.
"""

from dataclasses import replace

from planner.core.graph import Graph, Role


def sink(graph: Graph) -> Graph:
    """Operators that read parameters, constants and literals alone (and those that read nothing) come just before their
    first reader; unread ones (they feed an output) come last."""
    free = {i.value for i in graph.inputs_of(Role.PARAM)} | {v for v, _ in graph.constants}
    early: dict[int, int] = {}  # value -> operator that makes it
    for n, op in enumerate(graph.ops):
        if all(v in free for v in op.inputs):
            free.update(op.results)
            early.update(dict.fromkeys(op.results, n))
    movable = set(early.values())
    waiting = set(movable)
    order: list[int] = []

    def place(n: int) -> None:
        """Place operator n after the early operators that it reads."""
        stack = [n]
        while stack:
            top = stack[-1]
            missing = [early[v] for v in graph.ops[top].inputs if early.get(v) in waiting and early[v] != top]
            if missing:
                stack.append(missing[0])
                continue
            stack.pop()
            waiting.discard(top)
            order.append(top)

    for n in range(len(graph.ops)):
        if n not in movable:
            place(n)
    for n in sorted(waiting):
        if n in waiting:
            place(n)
    return replace(graph, ops=tuple(graph.ops[n] for n in order))
