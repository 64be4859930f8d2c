"""Where a chosen stage's predicted time goes: by kind for the whole, and layer by layer.

Costs of layers leave out what runs beside kernels (`costs/overlap.py`); here it is put back, as full times with what
hides of them beside it, so that the plan says both. What a layer's communications don't claim is kernels.

In: the steps of a `SliceChoice`, the communications of each, those of the stage. Out: `TimeParts`, `LayerTime`s.
"""

from collections.abc import Sequence

import numpy as np

from planner.core.plan import GATHER_OF, GRADIENT_OF, Collective, LayerTime, TimeParts
from planner.core.recomputation import Recompute
from planner.costs.collectives import ALL_REDUCE, REDUCE_SCATTER
from planner.intraop.decisions import LayerDecisions
from planner.intraop.slice_choice import SliceChoice, Step
from planner.weight_part import WeightPart


def time_parts(choice: SliceChoice, moves: Sequence[Collective]) -> TimeParts:
    """The stage's time by kind."""
    forward, backward, batch = (float(s) for s in np.sum([_hidden(step) for step in choice.steps], axis=0))
    often = [m for m in moves if m.per == "microbatch"]
    resharding = sum(m.time_s for m in often if m.kind not in (ALL_REDUCE, REDUCE_SCATTER))
    reducing = sum(m.time_s for m in often if m.kind in (ALL_REDUCE, REDUCE_SCATTER))
    sync = sum(m.time_s for m in moves if m.per == "batch" and m.phase != "update")  # gathers after it are the update's
    whole, once = choice.microbatch_s + forward + backward, choice.batch_s + batch
    return TimeParts(max(whole - resharding - reducing, 0.0), reducing, resharding, sync, max(once - sync, 0.0),
                     forward + backward, batch)


def layer_times(choice: SliceChoice, decisions: Sequence[LayerDecisions], weights: WeightPart
                ) -> tuple[LayerTime, ...]:
    """The time of every layer, from its own communications and those that it repeats, and of its backward what only
    makes gradients of parameters."""
    return tuple(_layer_time(step, d.collectives, d.repeated, weights.of_step(step).seconds)
                 for step, d in zip(choice.steps, decisions, strict=True))


def _hidden(step: Step) -> tuple[float, float, float]:
    forward, backward, batch = step.frontier.hidden_s[step.row, step.before, step.after].tolist()
    return forward, backward, batch


def _layer_time(step: Step, moves: Sequence[Collective], repeated: Sequence[Collective], weight_s: float) -> LayerTime:
    parts = step.frontier.parts[step.row, step.before, step.after].tolist()
    hidden = _hidden(step)
    sums = {"gather": [0.0, 0.0], "sync": [0.0, 0.0], "wait": [0.0, 0.0], "once": [0.0, 0.0]}
    more = repeated if step.way is Recompute.SELECTED else ()
    for m in (m for m in (*moves, *more) if m.phase != "update"):
        kind = "once" if m.per == "batch" else "gather" if m.where.startswith(GATHER_OF) else \
            "sync" if m.where.startswith(GRADIENT_OF) else "wait"
        sums[kind][m.phase == "backward"] += m.time_s
    if step.way is Recompute.ALL:
        for kind in ("gather", "wait"):
            sums[kind][1] += sums[kind][0]
    (gather, gather_back), (_, sync), (wait, wait_back) = sums["gather"], sums["sync"], sums["wait"]
    forward, backward = (max(0.0, part + beside) for part, beside in zip(parts[:2], hidden[:2], strict=True))
    gather = min(gather, forward)
    wait = min(wait, forward - gather)
    sync = min(sync, backward)
    gather_back = min(gather_back, backward - sync)
    wait_back = min(wait_back, backward - sync - gather_back)
    kernels = backward - sync - gather_back - wait_back
    return LayerTime(forward - gather - wait, wait, gather, kernels, wait_back, gather_back, sync, sum(sums["once"]),
                     min(weight_s, kernels))
