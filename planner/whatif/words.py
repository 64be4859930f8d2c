"""Answers as tables and sentences.

In: `Why`, `Answer`s. Out: rich renderables.
"""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.tables import Column, table_of
from planner.whatif.changes import Answer
from planner.whatif.tensor import Way, Why

TOLD = 3
"""Causes told of a way."""


def why_table(answer: Why) -> Group:
    """Every sharding of the tensor with what it costs, and what was left open."""
    columns = [Column("sharding", number=False), Column("step"), Column("adds"), Column("memory of\na device"),
               Column("by cause, a step", number=False, wrap=True)]
    rows = [(w.spec, *_way(w, answer.step_time_s)) for w in answer.ways]
    shape = " × ".join(map(str, answer.shape))
    title = f"{answer.kind} {answer.tensor} ({shape}), stage {answer.stage} on {answer.mesh}"
    where = "its layer" if answer.layers == 1 else f"the {answer.layers} layers of the stage that are like its own"
    text = f"The tensor is fixed so in {where}; all other shardings of the stage and what it recomputes are chosen " \
           "anew for it. The cut into stages, the meshes and all other stages stay."
    if not answer.paces:
        text += " Causes are seconds of this stage, which is not the slowest: most of what it adds, it waits less."
    return Group(table_of(title, columns, rows), Text(), Text(text, style="dim"))


def _way(way: Way, step_s: float) -> tuple[str, str, str, str]:
    if way.step_time_s is None:
        return "–", "–", "–", f"does not fit, by {units.size(way.missing_bytes)} on a device"
    if way.chosen:
        return units.seconds(step_s), "chosen", units.size(way.peak_bytes), ""
    added = way.step_time_s - step_s
    causes = ", ".join(f"{cause} {_signed(s)}" for cause, s in way.causes_s[:TOLD])
    return units.seconds(way.step_time_s), _signed(added), units.size(way.peak_bytes), causes


def _signed(seconds: float) -> str:
    return "0" if seconds == 0 else f"{'+' if seconds > 0 else '−'}{units.seconds(abs(seconds))}"


def answers_table(record: PlanRecord, answers: Sequence[Answer]) -> Table:
    """What each change brings, planned again."""
    columns = [Column("change, planned again", number=False, wrap=True), Column("step"), Column("samples\na second"),
               Column("stages"), Column("micro-\nbatches"), Column("peak\nmemory"), Column("", number=False, wrap=True)]
    rows: list[tuple[str, ...]] = [("as planned", units.seconds(record.step_time_s), "1.00 ×", str(len(record.stages)),
                                    f"{record.microbatches:,}", units.size(record.peak_bytes), "")]
    for a in answers:
        if a.step_time_s is None or a.peak_bytes is None:
            rows.append((a.change, *("–",) * 5, a.reason.split("\n")[0]))
        else:
            rows.append((a.change, units.seconds(a.step_time_s), f"{a.speedup:.2f} ×", str(a.stages),
                         f"{a.microbatches:,}", units.size(a.peak_bytes), ""))
    return table_of("what if", columns, rows)
