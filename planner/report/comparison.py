"""Several plans of one model side by side, in one table, relative to the first.

In: name -> `PlanRecord`, or the reason why there is none. Out: a table, or rows for machines.
"""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from planner.core.plan import PlanRecord
from planner.report import breakdown, units
from planner.report.tables import Column, mesh_text, table_of


def table(plans: Mapping[str, PlanRecord | str]) -> Table:
    """One row a plan: predicted step, ratio to the first plan, MFU, memory, stages, microbatches, meshes."""
    columns = [Column("plan", number=False, wrap=True), Column("predicted\nstep"), Column("÷ first"), Column("MFU"),
               Column("peak\nmemory"), Column("stages"), Column("micro-\nbatches"), Column("", number=False, wrap=True)]
    first = next((p.step_time_s for p in plans.values() if isinstance(p, PlanRecord)), 0.0)
    rows: list[tuple[str, ...]] = []
    for name, p in plans.items():
        if isinstance(p, str):
            rows.append((name, *("–",) * 6, p.split("\n")[0]))
            continue
        ratio = f"{p.step_time_s / first:.2f}" if first else "–"
        rows.append((name, units.seconds(p.step_time_s), ratio, units.share(breakdown.mfu(p)), units.size(_peak(p)),
                     str(len(p.stages)), f"{p.microbatches:,}", _meshes(p)))
    return table_of("plans of one model", columns, rows)


def rows(plans: Mapping[str, PlanRecord | str]) -> list[dict[str, Any]]:
    """The same as plain data; a plan that is not there has only `name` and `reason`."""
    found: list[dict[str, Any]] = []
    for name, p in plans.items():
        if isinstance(p, str):
            found.append({"name": name, "reason": p})
        else:
            found.append({"name": name, "step_time_s": p.step_time_s, "mfu": breakdown.mfu(p), "peak_bytes": _peak(p),
                          "stages": len(p.stages), "microbatches": p.microbatches, "schedule": p.schedule,
                          "meshes": [mesh_text(s) for s in p.stages]})
    return found


def _peak(record: PlanRecord) -> int:
    return record.peak_bytes


def _meshes(record: PlanRecord) -> str:
    words = (f"{mesh_text(s)}: {s.summary}" if s.summary else mesh_text(s) for s in record.stages)
    return "; ".join(dict.fromkeys(words))
