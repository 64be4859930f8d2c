"""Plans as files: JSON that people can read and diff, with a checksum, written whole or not at all.

    {"format": "planner-plan", "schema_version": 1, "checksum": "sha256:...", "plan": {...}}

In: a `PlanRecord`. Out: text, the same bytes for equal records (keys sorted, phases of planning time dropped, since
they differ from run to run), and back. The coding follows the type hints of the dataclasses (`core/typed_json.py`), so
that a new field needs nothing here.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from planner.core.files import write_atomically
from planner.core.plan import SCHEMA_VERSION, PlanRecord
from planner.core.plan_check import PlanSenseError, check_plan_record
from planner.core.typed_json import JsonShapeError, decode, encode, pretty
from planner.errors import PlanFileError

_FORMAT = "planner-plan"


def to_json(record: PlanRecord, *, dense: bool = False) -> str:
    """The plan as text, ending in a newline. `phases_s` is left out. `dense`: for nobody to look at, which is quicker.

    Raises:
      PlanFileError: a field holds what its type hint does not allow, or a number that is not finite.
    """
    try:
        body = encode(replace(record, phases_s=()), PlanRecord, "plan")
    except JsonShapeError as fault:
        raise PlanFileError(f"the plan cannot be written: {fault}", "this is a fault of what made the plan") from fault
    document = {"format": _FORMAT, "schema_version": record.schema_version, "checksum": _checksum(body), "plan": body}
    return (json.dumps(document, sort_keys=True, allow_nan=False) if dense else pretty(document)) + "\n"


def from_json(text: str, name: str = "the plan") -> PlanRecord:
    """Read what `to_json` wrote; `name` is the file's name for error messages.

    Raises:
      PlanFileError: not JSON or truncated, not a plan, another schema version, a checksum that does not match, a field
        of the wrong type, or one that makes no sense (`core/plan_check.py`).
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise PlanFileError(f"{name} is not JSON, or is truncated: {fault}", "copy it again, or plan again") from fault
    if not isinstance(document, dict) or cast(dict[str, Any], document).get("format") != _FORMAT:
        raise PlanFileError(f"{name} is not a plan file (it has no \"format\": \"{_FORMAT}\")",
                            "give a file written by Plan.save or `planner plan -o`")
    document = cast(dict[str, Any], document)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PlanFileError(f"{name} has schema version {version!r}; this planner reads version {SCHEMA_VERSION}",
                            "plan again with this version, or use the planner that wrote the file")
    body = document.get("plan")
    if document.get("checksum") != _checksum(body):
        raise PlanFileError(f"{name} is corrupt: its checksum is not that of its content",
                            "copy it again, or plan again (to change a plan, use pins instead of editing the file)")
    try:
        record = decode(body, PlanRecord, "plan")
        check_plan_record(record)
    except (JsonShapeError, PlanSenseError) as fault:
        raise PlanFileError(f"{name}: {fault}", "plan again with this version (to change a plan, use pins)") from fault
    return record


def save(record: PlanRecord, path: str | os.PathLike[str]) -> None:
    """Write the plan to a file, which appears whole or not at all; an older file of that name stays until then.

    Raises:
      PlanFileError: the file cannot be written.
    """
    text = to_json(record)
    place = Path(path)
    try:
        write_atomically(place, text.encode())
    except OSError as fault:
        raise PlanFileError(f"cannot write {place}: {fault.strerror or fault}",
                            "give a path in a folder that can be written") from fault


def load(path: str | os.PathLike[str]) -> PlanRecord:
    """Read a plan file.

    Raises:
      PlanFileError: as in `from_json`, or the file is missing or unreadable.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError as fault:
        raise PlanFileError(f"there is no plan file {place}", "make one with Plan.save or `planner plan -o`") from fault
    except UnicodeDecodeError as fault:
        raise PlanFileError(f"{place} is not text: {fault.reason} at byte {fault.start}",
                            "copy it again, or plan again") from fault
    except OSError as fault:
        raise PlanFileError(f"cannot read {place}: {fault.strerror or fault}", "give a plan file's path") from fault
    return from_json(text, str(place))


def _checksum(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
