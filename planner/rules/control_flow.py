"""Loops, branches and calls: what passes through everything inside passes through the whole.

The batch of a recurrent network run by `scan`, for instance. The dimension that `scan` runs over stays whole.
"""

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.compose import Classes
from planner.rules.labels import Label, from_labels
from planner.rules.lookup import graph_flops
from planner.rules.table import Values, register


def scan_flops(op: Op, _ins: Values, _outs: Values) -> int:
    """The body, `length` times. (XLA's own analysis counts a loop body once, whatever its length.)"""
    return op.params["length"] * graph_flops(op.bodies[0])


@register("scan", flops=scan_flops)
def scan(op: Op, ins: Values, outs: Values) -> OpRule:
    """`consts, carry, xs[length, ...] -> carry, ys[length, ...]`."""
    (body,) = op.bodies
    consts, carries = op.params["num_consts"], op.params["num_carry"]
    classes = Classes(op.bodies)
    entering, leaving = [i.value for i in body.inputs], [o.operand for o in body.outputs]
    for before, after in zip(entering[consts : consts + carries], leaving[:carries], strict=True):
        classes.tie((0, before), (0, after))
    usable = classes.usable()
    whole = consts + carries
    operands = [[None, *usable.labels(0, v)] if n >= whole else usable.labels(0, v) for n, v in enumerate(entering)]
    results = [usable.labels(0, v) for v in entering[consts:whole]]
    results += [[None, *usable.labels(0, v)] for v in leaving[carries:]]
    return from_labels(ins, outs, operands, results)


def while_flops(op: Op, _ins: Values, _outs: Values) -> int:
    """One turn: the number of turns is not known before the program runs."""
    return sum(graph_flops(body) for body in op.bodies)


@register("while", flops=while_flops)
def while_loop(op: Op, ins: Values, outs: Values) -> OpRule:
    """`cond_consts, body_consts, carry -> carry`, with nested graphs `(cond, body)`."""
    cond, body = op.bodies
    cond_consts, body_consts = op.params["cond_nconsts"], op.params["body_nconsts"]
    classes = Classes(op.bodies)
    tested = [i.value for i in cond.inputs]
    entering = [i.value for i in body.inputs]
    carried = entering[body_consts:]
    for before, after, seen in zip(carried, body.outputs, tested[cond_consts:], strict=True):
        classes.tie((1, before), (1, after.operand))
        classes.tie((1, before), (0, seen))
    usable = classes.usable()
    operands = [usable.labels(0, v) for v in tested[:cond_consts]] + [usable.labels(1, v) for v in entering]
    return from_labels(ins, outs, operands, [usable.labels(1, v) for v in carried])


def branch_flops(op: Op, _ins: Values, _outs: Values) -> int:
    """The dearest branch."""
    return max((graph_flops(body) for body in op.bodies), default=0)


@register("cond", flops=branch_flops)
def cond(op: Op, ins: Values, outs: Values) -> OpRule:
    """`which, operands -> results`: all branches must agree; the choice itself is whole."""
    first = op.bodies[0]
    classes = Classes(op.bodies)
    for g, body in enumerate(op.bodies[1:], start=1):
        for one, other in zip(first.inputs, body.inputs, strict=True):
            classes.tie((0, one.value), (g, other.value))
        for one, other in zip(first.outputs, body.outputs, strict=True):
            classes.tie((0, one.operand), (g, other.operand))
    usable = classes.usable()
    which: list[Label] = [None] * len(ins[0].shape)
    operands = [which, *(usable.labels(0, i.value) for i in first.inputs)]
    return from_labels(ins, outs, operands, [usable.labels(0, o.operand) for o in first.outputs])


@register("custom_jvp_call", "custom_vjp_call", "checkpoint", flops=branch_flops)
def call(op: Op, ins: Values, outs: Values) -> OpRule:
    """A body that is run once."""
    (body,) = op.bodies
    usable = Classes(op.bodies).usable()
    operands = [usable.labels(0, i.value) for i in body.inputs]
    return from_labels(ins, outs, operands, [usable.labels(0, o.operand) for o in body.outputs])
