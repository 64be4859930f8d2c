"""A verification as tables: per stage, predicted beside compiled; then what the plan did not foresee.

In: `VerifyReport`. Out: rich renderables.
"""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.report import units
from planner.report.tables import Column, table_of
from planner.verify.report import FINDING, StageReport, Surprise, VerifyReport

SHOWN = 12
"""Surprises of a stage that are shown; the rest is counted."""


def report(found: VerifyReport) -> Group:
    """Verdict, memory and FLOPs, collectives, surprises, notes."""
    parts: list[RenderableType] = [Text(_verdict(found), style="bold green" if found.passed else "bold red"), Text(),
                                   _sizes(found), Text(), _traffic(found), Text()]
    for stage in found.stages:
        parts += _surprises(stage, "made by the compiler, not foreseen", stage.unforeseen)
        parts += _surprises(stage, "foreseen, not made", stage.absent)
    parts.append(_programs(found))
    parts += [Text(f"note: {line}", style="dim") for line in found.notes]
    return Group(*parts)


def _verdict(found: VerifyReport) -> str:
    what = f"{found.model} compiled for {found.target} ({units.plural(found.devices, 'device')}) in " \
           f"{units.seconds(found.compile_s)}"
    if found.passed:
        return f"passed: {what}, as predicted"
    faults: list[str] = []
    for s in found.stages:
        faults += [f"bytes of collectives in stage {s.index}"] if not s.traffic_passed else []
        faults += [f"memory in stage {s.index}"] if not s.memory_passed else []
        count = units.plural(len(s.findings), "unforeseen collective")
        faults += [f"{count} over {100 * FINDING:.0f} % of the step in stage {s.index}"] if s.findings else []
    return f"FAILED: {what}: {'; '.join(faults)}"


def _sizes(found: VerifyReport) -> Table:
    rows: list[tuple[str, ...]] = []
    for s in found.stages:
        rows.append((str(s.index), units.size(s.foreseen_sent), units.size(s.made_sent),
                     _off(s.foreseen_sent, s.made_sent, passed=s.traffic_passed), units.size(s.predicted_bytes),
                     units.size(s.compiled_bytes), _off(s.predicted_bytes, s.compiled_bytes, passed=s.memory_passed),
                     units.scaled(s.predicted_flops, ""), units.scaled(s.compiled_flops, ""),
                     _off(s.predicted_flops, s.compiled_flops, passed=s.flops_as_predicted)))
    titles = ("sent\npredicted", "compiled", "off", "memory\npredicted", "compiled", "off",
              "matrix FLOPs\npredicted", "compiled", "off")
    return table_of("each device, a step", [Column("stage"), *map(Column, titles)], rows)


def _traffic(found: VerifyReport) -> Table:
    rows = [(str(s.index), k.kind, k.axes, f"{k.foreseen:,}", units.size(k.foreseen_bytes), f"{k.made:,}",
             units.size(k.made_bytes), _off(k.foreseen_bytes, k.made_bytes, passed=True))
            for s in found.stages for k in s.kinds]
    columns = [Column("stage"), Column("kind", number=False), Column("along", number=False),
               *map(Column, ("tensors\npredicted", "bytes", "tensors\ncompiled", "bytes", "off"))]
    return table_of("collectives by kind, a step", columns, rows)


def _surprises(stage: StageReport, what: str, found: Sequence[Surprise]) -> list[RenderableType]:
    if not found:
        return []
    rows = [(("! " if s.share > FINDING and s.program else "") + s.kind, s.axes, s.program, s.operator, s.tensor,
             units.size(s.bytes), f"× {s.times:,}", _share(s.share)) for s in found[:SHOWN]]
    columns = [Column("kind", number=False), Column("along", number=False), Column("in", number=False),
               Column("operator", number=False, wrap=True), Column("tensor", number=False, wrap=True),
               *map(Column, ("bytes", "a step", "of step"))]
    more = len(found) - SHOWN
    rest = [Text(f"and {more} more, of {_share(sum(s.share for s in found[SHOWN:]))} of the step", style="dim")] \
        if more > 0 else []
    return [table_of(f"stage {stage.index}: {what}", columns, rows), *rest, Text()]


def _programs(found: VerifyReport) -> Table:
    rows = [(str(s.index), p.name, f"× {p.times:,}", *(units.size(b) for b in (
        p.argument_bytes, p.output_bytes, p.alias_bytes, p.temp_bytes, p.code_bytes)),
             "–" if p.optimal_s is None else units.seconds(p.optimal_s), units.seconds(p.compile_s))
            for s in found.stages for p in s.programs]
    columns = [Column("stage"), Column("program", number=False), *map(Column, (
        "a step", "arguments", "outputs", "of them\naliased", "temporary", "code", "compiler's\ntime", "compiled in"))]
    return table_of("programs, bytes of a device", columns, rows)


def _off(predicted: float, compiled: float, *, passed: bool) -> str:
    """How far the prediction is from what was compiled."""
    if predicted == compiled:
        return "0"
    text = f"{100 * (predicted - compiled) / compiled:+.1f} %" if compiled else "+∞"
    return text if passed else f"{text} !"


def _share(share: float) -> str:
    return f"{100 * share:.2f} %"
