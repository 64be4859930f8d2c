"""A sweep as a table, and in a sentence: which cluster to rent.

In: a `Sweep`. Out: rich renderables and text.
"""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.core.sweeps import Sweep, SweepRow
from planner.report import units
from planner.report.tables import Column, table_of

FRONT = "●"
"""Marks rows of the Pareto front."""


def report(sweep: Sweep) -> Group:
    """The table, the answer, and what was not planned."""
    parts: list[RenderableType] = [table(sweep), Text(), Text(answer(sweep), style="bold")]
    parts += [Text(line, style="dim") for line in notes(sweep)]
    return Group(*parts)


def table(sweep: Sweep) -> Table:
    """One row a point; rows that no other beats in both hours and dollars are marked."""
    tokens = any(r.tokens_per_s is not None for r in sweep.rows)
    columns = [Column("", number=False), Column("cluster", number=False), Column("batch"), Column("step"),
               Column("tokens\na second" if tokens else "samples\na second"), Column("MFU"),
               Column("memory\nleft"), Column("USD\nan hour"), Column("hours"), Column("USD"), Column("gap")]
    front = sweep.pareto()
    return table_of(f"{sweep.model}, {sweep.run}", columns, (
        (FRONT if r in front else "", r.place, f"{r.batch:,}", *_cells(r)) for r in sweep.rows))


def _cells(row: SweepRow) -> tuple[str, ...]:
    if row.step_time_s is None or row.headroom_bytes is None or row.samples_per_s is None:
        return "no plan", *("–",) * 7
    each = row.samples_per_s if row.tokens_per_s is None else row.tokens_per_s
    return (units.seconds(row.step_time_s), units.scaled(each, "").rstrip(), units.share(row.mfu or 0.0),
            units.size(row.headroom_bytes) if row.headroom_bytes > 0 else "0", _money(row.usd_per_hour),
            "–" if row.hours is None else units.figures(row.hours), _money(row.usd), units.gap(row.gap or 0.0))


def _money(usd: float | None) -> str:
    return "–" if usd is None else units.figures(usd)


def answer(sweep: Sweep) -> str:
    """Which cluster to rent, in a sentence."""
    picked = sweep.best()
    limits = _limits(sweep)
    if picked.row is not None:
        fastest = sweep.budget_usd is not None and sweep.deadline_h is None
        why = f"the {'fastest' if fastest else 'cheapest'}{f' {limits}' if limits else ' of all'}"
        text = f"Rent {picked.row.name}: {_takes(picked.row, sweep)}, {why}."
        front = sweep.pareto()
        if not limits and front[0] is not picked.row:
            text += f" The fastest is {front[0].name}: {_takes(front[0], sweep)}."
        return text
    if picked.nearest is not None:
        return f"None trains {sweep.run} {limits}; nearest is {picked.nearest.name}: {_takes(picked.nearest, sweep)}."
    planned = [r for r in sweep.rows if r.hours is not None]
    if not planned:
        return "None of these clusters can run it."
    quick = min(planned, key=lambda r: (r.hours or 0.0, r.name))
    return (f"No price is known of any of these clusters (give --price NAME=USD); the fastest is {quick.name}: "
            f"{units.figures(quick.hours or 0.0)} hours for {sweep.run}.")


def _takes(row: SweepRow, sweep: Sweep) -> str:
    hours = row.hours or 0.0
    days = f" ({units.figures(hours / 24)} days)" if hours >= 48 else ""
    return f"{sweep.run} in {units.figures(hours)} hours{days} for {units.figures(row.usd or 0.0)} USD"


def _limits(sweep: Sweep) -> str:
    parts = [] if sweep.budget_usd is None else [f"{units.figures(sweep.budget_usd)} USD"]
    parts += [] if sweep.deadline_h is None else [f"{units.figures(sweep.deadline_h)} hours"]
    return f"within {' and '.join(parts)}" if parts else ""


def notes(sweep: Sweep) -> Iterator[str]:
    """Why points have no plan or no price, what the marks mean, and whether all was planned."""
    if sweep.pareto():
        yield f"{FRONT}: no other is both faster and cheaper"
    for row in sweep.rows:
        if row.reason:
            yield f"{row.name}: {row.reason.splitlines()[0]}"
    unpriced = dict.fromkeys(r.cluster for r in sweep.rows if r.step_time_s is not None and r.usd_per_hour is None)
    if unpriced:
        yield f"no price is known of {', '.join(unpriced)}: give --price NAME=USD, of one device for an hour"
    if not sweep.complete:
        yield "interrupted: these are the rows so far"
