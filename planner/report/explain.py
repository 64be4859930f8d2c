"""A plan in words and numbers: where the time goes, what sets the pace, what the memory holds, what else was possible.

In: a `PlanRecord`. Out: plain text of short paragraphs, for a person who asks why this plan and not another.
"""

import re
import textwrap

from planner.core.alternative import REWRITE, WITHOUT, Alternative
from planner.core.plan import Baseline, PlanRecord, ScheduleCost, StagePlan
from planner.report import breakdown, operator_words, units
from planner.report.causes import WAITING, stage_causes, step_causes, top_moves
from planner.report.first_order import Help, helps, recomputed_s
from planner.report.kinds import in_words, shares_in_words
from planner.report.tables import mesh_text, pipelined
from planner.simulate import simulate

TOP = 3
"""Operators and communications of the stage that sets the pace."""

NEAR = 4
"""Alternatives of a kind that are told."""

MOST = 5
"""Collectives and warnings shown before the rest is counted."""


def explain(record: PlanRecord, width: int = 100, *, operators: bool = False) -> str:
    """The explanation, wrapped at `width` columns; `operators`: with parallel operators (`report/operators.py`)."""
    parts = [
        ("What was chosen", _choice(record)),
        ("What was rewritten", _rewritten(record)),
        ("Where the time goes", _time(record)),
        ("What sets the pace", _pace(record)),
        ("Communication, dearest first", _communication(record)),
        ("Operators that move tensors, of equal layers together", operator_words.lines(record) if operators else []),
        ("What the memory holds", _memory(record)),
        ("What other counts and meshes would cost", _alternatives(record)),
        ("What other schedules would cost", _schedules(record)),
        ("What the standard recipes would cost", _baselines(record)),
        ("What would help most, to first order: what a change does not touch takes as long as before",
         [_help(h, record) for h in helps(record)]),
        ("Kinds of devices", in_words(record)),
        ("How sure this is", _certainty(record)),
        ("Warnings", list(record.warnings)),
    ]
    return "\n\n".join(_section(title, lines, width) for title, lines in parts if lines)


def _section(title: str, lines: list[str], width: int) -> str:
    joined = [re.sub(r"(?<=\d) (?=\S)", "\u00a0", line) for line in lines]  # a number stays beside its unit
    wrapped = [textwrap.fill(line, width, initial_indent="  - ", subsequent_indent="    ") for line in joined]
    return "\n".join([title, *wrapped]).replace("\u00a0", " ")


def _choice(record: PlanRecord) -> list[str]:
    on = record.cluster
    lines = [f"{record.model_name} on {units.plural(record.device_count, 'device')} of {on.name}: "
             f"{units.plural(len(record.stages), 'pipeline stage')}, "
             f"{units.plural(record.microbatches, 'microbatch')} of "
             f"{record.batch_size // max(1, record.microbatches):,}"
             + (f", schedule {record.schedule}." if pipelined(record) else ".")]
    shapes: dict[tuple[str, str], list[int]] = {}
    for s in record.stages:
        shapes.setdefault((mesh_text(s), s.summary or "everything replicated"), []).append(s.index)
    for (mesh, summary), which in shapes.items():
        lines.append(f"stage {units.ranges(which)} on {mesh}: {summary}.")
    lines += shares_in_words(record)
    split = [p for p in record.params if any(p.spec)]
    finer = [p for p in record.params if p.update_spec != p.spec]
    more = f"; {len(finer)} keep gradients and optimizer state sharded finer than themselves" if finer else ""
    lines.append(f"{len(split)} of {units.plural(len(record.params), 'parameter')} are stored sharded{more}.")
    if record.pins:
        lines.append("fixed by you: " + ", ".join(f"{name} = {value}" for name, value in record.pins) + ".")
    return lines


def _rewritten(record: PlanRecord) -> list[str]:
    lines = [f"without rewrites the model does not fit: {b.note}." for b in record.baselines
             if b.name == WITHOUT and not b.fits]
    for r in record.rewrites:
        gain = f", {'gains' if r.gain_s > 0 else 'costs by itself'} {units.seconds(abs(r.gain_s))} a step" \
            if r.gain_s else ""
        gain += f", makes up for {units.size(r.frees_bytes)} of a device's memory that are missing without" \
            if r.frees_bytes > 0 else ""
        exact = "last bits may differ" if r.rounding else "bit for bit the same"
        assumes = f"; assumes that {r.assumes}" if r.assumes else ""
        lines.append(f"{r.rewriting.rule} ({r.says}) at {r.rewriting.at}, in {units.plural(r.places, 'place')}{gain}: "
                     f"{exact}{assumes}.")
    left = [f"{a.choice} ({units.times(a.step_time_s, record.step_time_s)})" for a in record.alternatives
            if a.about == REWRITE and a.step_time_s is not None][:NEAR]
    return [*lines, f"looked at and not taken, by itself about: {'; '.join(left)}."] if left else lines


def _time(record: PlanRecord) -> list[str]:
    step, causes = record.step_time_s, step_causes(record)
    peak = breakdown.peak(record)
    lines = [f"one step takes {units.seconds(step)} (predicted), on the mean device: " + ", ".join(
        f"{cause} {units.seconds(s)} ({units.share(s / step)})" for cause, s in causes.items() if _seen(s, record))
        + "."]
    if pipelined(record):
        ranks = f" on {units.plural(record.layout.ranks, 'group')} of devices" if record.layout.chunks > 1 else ""
        line = simulate(record, intervals=False)
        lines.append(f"devices wait {units.share(sum(causes[c] for c in WAITING) / step)} of it: for the pipeline of "
                     f"{units.plural(len(record.stages), 'stage')}{ranks} to fill and drain around "
                     f"{units.plural(record.microbatches, 'microbatch')} (bubble), and for slower stages. Played "
                     f"through event by event, {record.schedule} takes {units.seconds(line.step_time_s)}, and devices "
                     f"wait {units.share(line.bubble)} of that.")
    again = recomputed_s(record)
    if _seen(again, record):
        lines.append(f"of the compute, {units.seconds(again)} are forwards of layers that run a second time.")
    lines.append(f"{units.scaled(record.model_flops, 'FLOP')} of model arithmetic a step are "
                 f"{units.rate(breakdown.flops_per_device_s(record))} on each device, "
                 f"{units.share(breakdown.mfu(record))} of the {peak.dtype} peak of {units.rate(peak.flops_per_s)}.")
    return lines


def _seen(seconds: float, record: PlanRecord) -> bool:
    """Whether a part of the step is more than rounding."""
    return seconds > units.PROVEN * record.step_time_s


def _pace(record: PlanRecord) -> list[str]:
    slow = breakdown.bottleneck(record)
    causes = stage_causes(record, slow)
    busy = sum(causes.values()) or 1.0
    parts = [f"{cause} {units.seconds(part)} ({units.share(part / busy)})" for cause, part in
             sorted(causes.items(), key=lambda item: -item[1]) if _seen(part, record)]
    lines = [f"stage {slow.index} (layers {units.ranges(range(*slow.layers))}) works {units.seconds(busy)} of "
             f"the step: {', '.join(parts)}."]
    if len(record.stages) > 1:
        idlest = min(record.stages, key=lambda s: (_busy(s, record), s.index))
        lines.append(f"the least busy is stage {idlest.index}, with {units.share(_busy(idlest, record) / busy)} of "
                     "that work.")
    flops = [(info.flops, n, info.name) for n, info in enumerate(record.layers) if slow.layers[0] <= n < slow.layers[1]]
    total = sum(f for f, _, _ in flops)
    if total:
        top = max(flops, key=lambda row: (row[0], -row[1]))
        lines.append(f"its heaviest layer is {top[1]} ({top[2]}), {units.share(top[0] / total)} of its arithmetic.")
        lines.append(f"its arithmetic is mostly {', '.join(_operators(record, slow, total))}.")
    moves = [(c, s) for c, s in top_moves(record, slow)[:TOP] if s > 0.001 * record.step_time_s]
    if moves:
        lines.append("its dearest communication: " + "; ".join(
            f"{c.kind} for {c.where}, {units.seconds(s)} ({units.share(s / busy)})" for c, s in moves) + ".")
    return lines


def _operators(record: PlanRecord, stage: StagePlan, total: int) -> list[str]:
    """The operators of a stage that most of its forward arithmetic is in, by their source lines."""
    found: dict[str, int] = {}
    for op in record.ops[slice(*stage.ops)]:
        key = f"{op.primitive} {op.source}".strip()
        found[key] = found.get(key, 0) + op.flops
    return [f"{name} ({units.share(flops / total)})" for name, flops in
            sorted(found.items(), key=lambda item: (-item[1], item[0]))[:TOP] if flops]


def _busy(stage: StagePlan, record: PlanRecord) -> float:
    return sum(breakdown.stage_busy_s(stage, record.microbatches_of(stage)))


def _communication(record: PlanRecord) -> list[str]:
    rows = [row for row in breakdown.collectives_by_cause(record) if row[4] > 0]
    every = " over all stages" if len(record.stages) > 1 else ""
    lines = [f"{kind} over {axes} for {where}: {count:,} a step, {units.seconds(spent)}{every}."
             for kind, axes, where, count, spent in rows[:MOST]]
    if len(rows) > MOST:
        lines.append(f"and {len(rows) - MOST} more kinds, together {units.seconds(sum(r[4] for r in rows[MOST:]))}.")
    return lines


def _memory(record: PlanRecord) -> list[str]:
    rank = breakdown.fullest_rank(record)
    total, device = record.rank_bytes[rank], breakdown.kind_of_rank(record, rank).device
    capacity = device.memory_bytes
    full = [record.stages[s] for s in record.layout.stages_of(rank)]
    parts = [f"{kind} {units.size(part)}" for kind, part in
             zip(breakdown.MEMORY_KINDS, breakdown.memory_of(full), strict=True) if part]
    names = f"stage {full[0].index}" if len(full) == 1 else f"where stages {units.ranges(s.index for s in full)} share"
    lines = [f"fullest is {names}: {units.size(total)} of {units.size(capacity)} "
             f"({units.share(total / capacity)}) on each device: {', '.join(parts)}."]
    usable = device.usable_bytes
    lines.append(f"{units.size(max(0.0, usable - total))} are left of what a plan may use ({units.size(usable)}: "
                 f"{device.memory_margin:.0%} are kept free for what no plan foresees).")
    kinds = dict(zip(breakdown.MEMORY_KINDS, breakdown.memory_of(full), strict=True))
    most = max(kinds, key=lambda kind: kinds[kind])
    lines.append(f"{most} set the peak: {units.share(kinds[most] / total)} of it.")
    held = [s.in_flight for s in full]
    if sum(held) > 1:
        lines.append(f"its activations are those of {' and '.join(map(str, held))} microbatches in flight.")
    if len(record.stages) > record.layout.chunks and max(record.rank_bytes) > min(record.rank_bytes):
        lines.append(f"the emptiest devices hold {units.size(min(record.rank_bytes))}.")
    again = sum(len(s.recompute) for s in record.stages)
    if again:
        lines.append(f"{units.plural(again, 'layer')} of {len(record.layers)} run their forward a second time instead "
                     "of keeping activations.")
    some = sum(len(s.selected) for s in record.stages)
    if some:
        lines.append(f"{units.plural(some, 'layer')} of {len(record.layers)} keep selected activations and make the "
                     "others again in the backward.")
    return lines


def _alternatives(record: PlanRecord) -> list[str]:
    lines: list[str] = []
    for about in dict.fromkeys(a.about for a in record.alternatives if a.about != REWRITE):
        lines += [f"{a.choice}: {_alternative(a, record.step_time_s)}." for a in
                  [a for a in record.alternatives if a.about == about][:NEAR]]
    if lines:
        lines.append("these are the best that the search saw by the way; of what it was not looking for, as of most "
                     "other numbers of stages, there may be better (`--what-if` searches for it).")
    return lines


def _alternative(a: Alternative, step_s: float) -> str:
    note = f" ({a.note})" if a.note else ""
    if a.step_time_s is None or a.peak_bytes is None:
        return (f"does not fit, by {units.size(a.missing_bytes)} on a device" if a.missing_bytes else
                "nothing was found that fits") + note
    return (f"{units.seconds(a.step_time_s)}, {units.times(a.step_time_s, step_s)}, about "
            f"{units.size(a.peak_bytes)} on a device{note}")


def _help(h: Help, record: PlanRecord) -> str:
    gain = f"{'at most ' if h.at_most else ''}{units.gap(h.speedup - 1)} more samples a second"
    step = "" if h.step_time_s is None else f" ({units.seconds(record.step_time_s)} → {units.seconds(h.step_time_s)})"
    return f"{h.change}: {gain}{step}, if {h.why}."


def _schedules(record: PlanRecord) -> list[str]:
    if not record.schedules:
        return []
    mine = next((s for s in record.schedules if s.name == record.schedule), None)
    lines: list[str] = []
    if len(record.stages) > 1 and mine is not None:
        why = "as you asked" if "schedule" in dict(record.pins) else "the fastest found that fits"
        lines.append(f"{mine.name} was chosen, {why}: devices wait {units.share(mine.bubble)} of the step.")
    return lines + [f"{s.name}: {_schedule(s, record.step_time_s)}." for s in record.schedules
                    if s is not mine or len(record.stages) == 1]


def _schedule(cost: ScheduleCost, step_s: float) -> str:
    if cost.step_time_s is None or cost.peak_bytes is None:
        return cost.note
    fits = "" if cost.fits else ", which does not fit"
    return (f"{units.seconds(cost.step_time_s)}, {units.times(cost.step_time_s, step_s)}, bubble "
            f"{units.share(cost.bubble)}, about {units.size(cost.peak_bytes)} on a device{fits} ({cost.note})")


def _baselines(record: PlanRecord) -> list[str]:
    return [f"{b.name}: {_baseline(b, record.step_time_s)}" for b in record.baselines]


def _baseline(b: Baseline, step_s: float) -> str:
    memory = "" if b.peak_bytes is None else f", {units.size(b.peak_bytes)} on a device"
    note = f" ({b.note})" if b.note else ""
    if b.step_time_s is None:
        return f"no time{memory}{note}."
    return f"{units.seconds(b.step_time_s)}, {units.times(b.step_time_s, step_s)}{memory}" \
        f"{'' if b.fits else ', which does not fit'}{note}."


def _certainty(record: PlanRecord) -> list[str]:
    lines = [f"within the space searched and the cost model, no plan is faster than "
             f"{units.seconds(record.lower_bound_s)}: a gap of {units.gap(record.gap)}."]
    open_ones = [s.index for s in record.stages if s.gap > units.PROVEN]
    if open_ones:
        worst = max(s.gap for s in record.stages)
        lines.append(f"shardings of stage {units.ranges(open_ones)} are not proven best; their gap is at most "
                     f"{units.gap(worst)}.")
    else:
        lines.append("the shardings of every stage are proven best for its mesh.")
    if record.pruned:
        lines.append("left out of the search: " + "; ".join(f"{why}: {count:,}" for why, count in record.pruned) + ".")
    return lines
