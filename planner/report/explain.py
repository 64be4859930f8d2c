"""A plan in words and numbers: where the time goes, what sets the pace, what the memory holds, what else was possible.

In: a `PlanRecord`. Out: plain text of short paragraphs, for a person who asks why this plan and not another.
"""

import re
import textwrap

from planner.core.plan import Baseline, PlanRecord, ScheduleCost, StagePlan
from planner.report import breakdown, units
from planner.report.tables import mesh_text

MOST = 5
"""Collectives and warnings shown before the rest is counted."""


def explain(record: PlanRecord, width: int = 100) -> str:
    """The explanation, wrapped at `width` columns."""
    parts = [
        ("What was chosen", _choice(record)),
        ("Where the time goes", _time(record)),
        ("What sets the pace", _pace(record)),
        ("Communication, dearest first", _communication(record)),
        ("What the memory holds", _memory(record)),
        ("What other schedules would cost", _schedules(record)),
        ("What the standard recipes would cost", _baselines(record)),
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
             + (f", schedule {record.schedule}." if len(record.stages) > 1 else ".")]
    shapes: dict[tuple[str, str], list[int]] = {}
    for s in record.stages:
        shapes.setdefault((mesh_text(s), s.summary or "everything replicated"), []).append(s.index)
    for (mesh, summary), which in shapes.items():
        lines.append(f"stage {units.ranges(which)} on {mesh}: {summary}.")
    split = [p for p in record.params if any(p.spec)]
    finer = [p for p in record.params if p.update_spec != p.spec]
    more = f"; {len(finer)} keep gradients and optimizer state sharded finer than themselves" if finer else ""
    lines.append(f"{len(split)} of {units.plural(len(record.params), 'parameter')} are stored sharded{more}.")
    if record.pins:
        lines.append("fixed by you: " + ", ".join(f"{name} = {value}" for name, value in record.pins) + ".")
    return lines


def _time(record: PlanRecord) -> list[str]:
    shares = breakdown.device_shares(record)
    parts = [f"{kind} {units.share(value)}" for kind, value in shares.items() if value > 0]
    peak = breakdown.peak(record)
    lines = [f"one step takes {units.seconds(record.step_time_s)} (predicted); of the devices' time: "
             f"{', '.join(parts)}."]
    if len(record.stages) > 1:
        ranks = f" on {units.plural(record.layout.ranks, 'group')} of devices" if record.layout.chunks > 1 else ""
        lines.append(f"idle is the bubble of {units.plural(len(record.stages), 'stage')}{ranks} with "
                     f"{units.plural(record.microbatches, 'microbatch')}, and waiting for slower stages.")
    lines.append(f"{units.scaled(record.model_flops, 'FLOP')} of model arithmetic a step are "
                 f"{units.rate(breakdown.flops_per_device_s(record))} on each device, "
                 f"{units.share(breakdown.mfu(record))} of the {peak.dtype} peak of {units.rate(peak.flops_per_s)}.")
    return lines


def _pace(record: PlanRecord) -> list[str]:
    slow = breakdown.bottleneck(record)
    spent = breakdown.stage_busy_s(slow, record.microbatches)
    busy = sum(spent) or 1.0
    parts = [f"{kind} {units.seconds(part)} ({units.share(part / busy)})"
             for kind, part in zip(breakdown.TIME_KINDS, spent, strict=False) if part > 0]
    lines = [f"stage {slow.index} (layers {units.ranges(range(*slow.layers))}) works {units.seconds(sum(spent))} of "
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
    return lines


def _busy(stage: StagePlan, record: PlanRecord) -> float:
    return sum(breakdown.stage_busy_s(stage, record.microbatches))


def _communication(record: PlanRecord) -> list[str]:
    rows = [row for row in breakdown.collectives_by_cause(record) if row[4] > 0]
    every = " over all stages" if len(record.stages) > 1 else ""
    lines = [f"{kind} over {axes} for {where}: {count:,} a step, {units.seconds(spent)}{every}."
             for kind, axes, where, count, spent in rows[:MOST]]
    if len(rows) > MOST:
        lines.append(f"and {len(rows) - MOST} more kinds, together {units.seconds(sum(r[4] for r in rows[MOST:]))}.")
    return lines


def _memory(record: PlanRecord) -> list[str]:
    total, capacity = record.peak_bytes, record.cluster.device.memory_bytes
    full = [record.stages[s] for s in record.layout.stages_of(record.rank_bytes.index(total))]
    parts = [f"{kind} {units.size(part)}" for kind, part in
             zip(breakdown.MEMORY_KINDS, breakdown.memory_of(full), strict=True) if part]
    names = f"stage {full[0].index}" if len(full) == 1 else f"where stages {units.ranges(s.index for s in full)} share"
    lines = [f"fullest is {names}: {units.size(total)} of {units.size(capacity)} "
             f"({units.share(total / capacity)}) on each device: {', '.join(parts)}."]
    held = [s.in_flight for s in full]
    if sum(held) > 1:
        lines.append(f"its activations are those of {' and '.join(map(str, held))} microbatches in flight.")
    again = sum(len(s.recompute) for s in record.stages)
    if again:
        lines.append(f"{units.plural(again, 'layer')} of {len(record.layers)} run their forward a second time instead "
                     "of keeping activations.")
    some = sum(len(s.selected) for s in record.stages)
    if some:
        lines.append(f"{units.plural(some, 'layer')} of {len(record.layers)} keep selected activations and make the "
                     "others again in the backward.")
    return lines


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
    ratio = cost.step_time_s / step_s if step_s else float("inf")
    fits = "" if cost.fits else ", which does not fit"
    return (f"{units.seconds(cost.step_time_s)}, {ratio:.2f} × this plan's time, bubble {units.share(cost.bubble)}, "
            f"about {units.size(cost.peak_bytes)} on a device{fits} ({cost.note})")


def _baselines(record: PlanRecord) -> list[str]:
    return [f"{b.name}: {_baseline(b, record.step_time_s)}" for b in record.baselines]


def _baseline(b: Baseline, step_s: float) -> str:
    memory = "" if b.peak_bytes is None else f", {units.size(b.peak_bytes)} on a device"
    note = f" ({b.note})" if b.note else ""
    if b.step_time_s is None:
        return f"no time{memory}{note}."
    ratio = b.step_time_s / step_s if step_s else float("inf")
    speed = "as fast as this plan" if 0.995 < ratio < 1.005 else f"{ratio:.2f} × this plan's time"
    return f"{units.seconds(b.step_time_s)}, {speed}{memory}{'' if b.fits else ', which does not fit'}{note}."


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
