"""What has to move from one plan to the next, as tables and as plain data.

In: `Moves`, the two plans. Out: tables, or what `json.dumps` takes.
"""

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from planner.core.moves import Arrivals, Moves, Piece
from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.tables import Column, table_of


def table(moves: Moves, old: PlanRecord, new: PlanRecord) -> Table:
    """A row per device of the new plan: what it is to hold, what it has, what comes from where."""
    columns = [Column("device", number=False), Column("stage"), Column("parameters"), Column("optimizer\nstate"),
               Column("has"), Column("from other\ndevices"), Column("from a\ncheckpoint"),
               Column("sources", number=False, wrap=True)]
    rows = [(d.name, str(d.stage), units.size(d.params_bytes), units.size(d.opt_state_bytes), units.size(d.kept_bytes),
             units.size(d.moved_bytes), units.size(d.checkpoint_bytes), _sources(d, old)) for d in moves.devices]
    return table_of(f"what moves ({len(new.stages)} stages, {new.device_count} devices)", columns, rows)


def summary(moves: Moves, old: PlanRecord, new: PlanRecord, notes: Iterable[str]) -> Text:
    """The two plans and the totals, in a few lines."""
    change = new.step_time_s / old.step_time_s if old.step_time_s else 1.0
    lines = [f"step {units.seconds(old.step_time_s)} on {old.device_count} devices → "
             f"{units.seconds(new.step_time_s)} on {new.device_count} ({change:.2f} times)",
             f"{units.size(moves.moved_bytes)} over the links in {units.seconds(moves.seconds)} or more, "
             f"{units.size(moves.checkpoint_bytes)} from a checkpoint, {units.size(moves.kept_bytes)} stays where it "
             "is",
             *notes]
    return Text("\n".join(lines))


def as_data(moves: Moves, old: PlanRecord) -> dict[str, Any]:
    """All of it: per device every piece that comes, with its source."""
    return {"seconds": moves.seconds, "moved_bytes": moves.moved_bytes, "checkpoint_bytes": moves.checkpoint_bytes,
            "kept_bytes": moves.kept_bytes, "devices": [
                {"device": d.device, "name": d.name, "was": d.was, "stage": d.stage, "params_bytes": d.params_bytes,
                 "opt_state_bytes": d.opt_state_bytes, "kept_bytes": d.kept_bytes, "moved_bytes": d.moved_bytes,
                 "checkpoint_bytes": d.checkpoint_bytes, "pieces": [_piece(p, old) for p in d.pieces]}
                for d in moves.devices]}


def _piece(piece: Piece, old: PlanRecord) -> dict[str, Any]:
    return {"what": piece.what, "path": piece.path, "row": piece.row, "bytes": piece.bytes,
            "from": "checkpoint" if piece.source is None else old.cluster.device_name(piece.source)}


def _sources(device: Arrivals, old: PlanRecord) -> str:
    """The devices that most comes from, the first three."""
    amounts: dict[int, int] = {}
    for piece in device.pieces:
        if piece.source is not None:
            amounts[piece.source] = amounts.get(piece.source, 0) + piece.bytes
    most = sorted(amounts, key=lambda s: (-amounts[s], s))
    more = f" and {len(most) - 3} more" if len(most) > 3 else ""
    return ", ".join(old.cluster.device_name(s) for s in most[:3]) + more
