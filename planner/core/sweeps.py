"""A model planned over many clusters, sizes and batches: one row a point, and which of them to rent.

In: rows. Out: the Pareto front of hours and dollars, the best for a budget or a deadline, JSON and CSV.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from planner.errors import PlannerError

HOUR_S = 3600.0


@dataclass(frozen=True)
class SweepRow:
    """One cluster of one size with one batch; where there is no plan, `reason` says why and the rest is None.

    Attributes:
      cluster, nodes, devices, batch: the point.
      step_time_s: predicted.
      samples_per_s, tokens_per_s: of the whole cluster; no tokens where a sample has none.
      mfu: model FLOPs utilisation, a part of 1.
      peak_bytes, headroom_bytes: of the fullest device, and what it has left of what a plan may use.
      stages, microbatches, schedule: of the plan.
      gap: proven, as `PlanRecord.gap`.
      usd_per_hour: of all devices; None where no price is known.
      hours, usd: of the whole run.
    """

    cluster: str
    nodes: int
    devices: int
    batch: int
    step_time_s: float | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    peak_bytes: int | None = None
    headroom_bytes: int | None = None
    stages: int | None = None
    microbatches: int | None = None
    schedule: str | None = None
    gap: float | None = None
    usd_per_hour: float | None = None
    hours: float | None = None
    usd: float | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The point in words."""
        return f"{self.place} ({self.devices} devices), batch {self.batch:,}"

    @property
    def place(self) -> str:
        """The cluster with its number of nodes; one of several parts has those in its name."""
        return self.cluster if "+" in self.cluster else f"{self.nodes} × {self.cluster}"


@dataclass(frozen=True)
class Pick:
    """What to rent, or why there is none that does: `row` is None, `nearest` the one that misses by least."""

    row: SweepRow | None
    nearest: SweepRow | None = None


@dataclass(frozen=True)
class Sweep:
    """All rows in the order that they were asked for; `print(sweep)` is not a table: see `report.sweep_words`.

    Attributes:
      model: its name.
      run: how much is trained, in words: `"1e+12 tokens"`.
      rows: one a point.
      complete: whether every point was planned; otherwise it was interrupted.
      budget_usd, deadline_h: what the run may take; None: anything.
    """

    model: str
    run: str
    rows: tuple[SweepRow, ...]
    complete: bool = True
    budget_usd: float | None = None
    deadline_h: float | None = None

    def pareto(self) -> tuple[SweepRow, ...]:
        """The rows that no other row beats in both hours and dollars, the fastest first."""
        priced = [r for r in self.rows if r.hours is not None and r.usd is not None]
        front: list[SweepRow] = []
        for row in sorted(priced, key=_hours_then_usd):
            if not front or _usd(row) < _usd(front[-1]):
                front.append(row)
        return tuple(front)

    def best(self, budget_usd: float | None = None, deadline_h: float | None = None) -> Pick:
        """What to rent: within a deadline (and a budget) the cheapest; within a budget alone the fastest; without
        either the cheapest. The limits of the sweep hold where none is given."""
        budget = self.budget_usd if budget_usd is None else budget_usd
        deadline = self.deadline_h if deadline_h is None else deadline_h
        front = self.pareto()
        inside = [r for r in front if (budget is None or _usd(r) <= budget) and (
            deadline is None or _hours(r) <= deadline)]
        if inside:
            fastest = budget is not None and deadline is None
            return Pick(min(inside, key=_hours_then_usd if fastest else _usd_then_hours))
        if not front:
            return Pick(None)
        misses = [max(_usd(r) / budget if budget else 0.0, _hours(r) / deadline if deadline else 0.0) for r in front]
        return Pick(None, front[misses.index(min(misses))])

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        picked = self.best()
        front = self.pareto()
        return {"model": self.model, "run": self.run, "complete": self.complete, "budget_usd": self.budget_usd,
                "deadline_h": self.deadline_h, "rows": [_data(r) | {"pareto": r in front} for r in self.rows],
                "best": None if picked.row is None else _data(picked.row)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Sweep":
        """What `to_data` gave.

        Raises:
          PlannerError: it is no sweep.
        """
        names = {f.name for f in fields(SweepRow)}
        try:
            rows = tuple(SweepRow(**{n: v for n, v in row.items() if n in names}) for row in data["rows"])
            return cls(data["model"], data["run"], rows, data["complete"], data["budget_usd"], data["deadline_h"])
        except (KeyError, TypeError, AttributeError) as fault:
            raise PlannerError(f"this is no saved sweep: {fault}", "give what `planner sweep -o FILE.json` wrote") \
                from fault

    def to_csv(self) -> str:
        """The rows as CSV with a header, numbers in SI units; what is not known is empty."""
        out = io.StringIO()
        names = [f.name for f in fields(SweepRow)]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*names, "pareto"])
        front = self.pareto()
        for row in self.rows:
            data = _data(row)
            writer.writerow(["" if data[n] is None else data[n] for n in names] + [row in front])
        return out.getvalue()


def _data(row: SweepRow) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(row)}


def _usd(row: SweepRow) -> float:
    return cast(float, row.usd)


def _hours(row: SweepRow) -> float:
    return cast(float, row.hours)


def _hours_then_usd(row: SweepRow) -> tuple[float, float, str]:
    return _hours(row), _usd(row), row.name


def _usd_then_hours(row: SweepRow) -> tuple[float, float, str]:
    return _usd(row), _hours(row), row.name
