"""Give every reader far away its own copy of a cheap value that is made from parameters and constants alone.

A cast of the embedding that lookup and logits share, a causal mask or a table of rotary angles that every layer reads:
carried along, such a value would cross every cut between its first and its last reader as if it were an activation.
Copied, the parameter itself is what both places read (a tied weight, synchronised once per batch), and layers that were
alike but for the first one are alike. XLA merges the copies of one program again, so nothing is computed twice there.

In: a forward `Graph`. Out: an equal one with more operators.
"""

from dataclasses import replace

from planner.core.graph import Graph, Op, Phase, Role, Value

CHEAP = frozenset({
    "abs", "add", "and", "broadcast_in_dim", "ceil", "clamp", "concatenate", "convert_element_type", "copy", "cos",
    "div", "eq", "exp", "exp2", "expand_dims", "floor", "ge", "gt", "integer_pow", "iota", "is_finite", "le", "log",
    "log1p", "log2", "lt", "max", "min", "mul", "ne", "neg", "not", "one_minus_square", "or", "pad", "pow", "rem",
    "reshape", "rev", "round", "rsqrt", "select_n", "sign", "sin", "slice", "sqrt", "square", "squeeze", "sub",
    "tan", "tanh", "transpose", "xor"})
"""Primitives that cost no more than reading and writing their operands."""

_HEAVY = frozenset({"dot_general", "conv_general_dilated", "ragged_dot", "scan", "while", "cond"})
"""Two readers with one of these between them are far from each other."""


def with_local_copies(graph: Graph) -> Graph:
    """The graph with a copy of each cheap parameter-only value wherever a heavy operator lies between its readers."""
    made_by = {v: graph.ops[n] for v, n in cheap_of_parameters(graph).items()}
    return _Copies(graph, made_by).run() if made_by else graph


def cheap_of_parameters(graph: Graph) -> dict[int, int]:
    """Values made by cheap forward operators from parameters, constants and literals alone -> their operators, in
    order."""
    free = {i.value for i in graph.inputs_of(Role.PARAM)} | {i.value for i in graph.inputs_of(Role.CONST)}
    free |= {v for v, _ in graph.constants}
    found: dict[int, int] = {}
    for n, op in enumerate(graph.ops):
        cheap = op.phase is Phase.FORWARD and op.primitive in CHEAP and len(op.results) == 1
        if cheap and all(v in free for v in op.inputs):
            free.add(op.results[0])
            found[op.results[0]] = n
    return found


class _Copies:
    """The operators kept so far, and the copy of each cheap value that stands in the present neighbourhood."""

    def __init__(self, graph: Graph, made_by: dict[int, Op]) -> None:
        self.graph, self.made_by = graph, made_by
        self.values: list[Value] = list(graph.values)
        self.ops: list[Op] = []
        self.here: dict[int, int] = {}  # value -> its copy, since the last heavy operator
        self.first: set[int] = set()  # values whose own operator is in place

    def run(self) -> Graph:
        """Cheap operators come before their readers, again after each heavy one."""
        for op in self.graph.ops:
            if op.results and op.results[0] in self.made_by:
                continue
            self.ops.append(self._reading_copies(op))
            if op.primitive in _HEAVY:
                self.here = {}
        for out in self.graph.outputs:
            if isinstance(out.operand, int) and out.operand in self.made_by and out.operand not in self.first:
                self._copy(out.operand)
        return replace(self.graph, values=tuple(self.values), ops=tuple(self.ops))

    def _reading_copies(self, op: Op) -> Op:
        if self.made_by.keys().isdisjoint(op.inputs):
            return op
        return replace(op, operands=tuple(self._copy(o) if isinstance(o, int) and o in self.made_by else o
                                          for o in op.operands))

    def _copy(self, value: int) -> int:
        """The copy of a cheap value in this neighbourhood, made if need be after what it is made from."""
        stack = [value]
        while stack:
            op = self.made_by[stack[-1]]
            missing = [v for v in op.inputs if v in self.made_by and v not in self.here]
            if missing:
                stack.append(missing[0])
                continue
            made = stack.pop()
            if made not in self.here:
                self.here[made] = self._name(made)
                operands = tuple(self.here.get(o, o) if isinstance(o, int) else o for o in op.operands)
                self.ops.append(replace(op, operands=operands, results=(self.here[made],)))
        return self.here[value]

    def _name(self, value: int) -> int:
        if value not in self.first:
            self.first.add(value)
            return value
        self.values.append(self.graph.values[value])
        return len(self.values) - 1
