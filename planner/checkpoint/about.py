"""What a checkpoint says of itself: plan, model, library versions and the arrays it holds.

In: a plan's record and a state. Out: plain JSON with a checksum, stored beside the arrays; and back.
"""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from typing import Any

from planner.checkpoint.leaves import LeafType, leaf_types
from planner.core import plan_io
from planner.core.plan import PlanRecord
from planner.runtime.state import RunState

_FORMAT = 1
_LIBRARIES = ("jax-planner", "jax", "jaxlib", "numpy", "orbax-checkpoint", "tensorstore")


@dataclass(frozen=True)
class About:
    """See the module.

    Attributes:
      model_name, fingerprint: of the model, as the plan has them; the fingerprint depends on the microbatches too.
      microbatches: of the plan.
      plan: the plan as JSON text, readable by `planner.core.plan_io.from_json`.
      versions: (library, version).
      leaves: every array of the state, by name.
    """

    model_name: str
    fingerprint: str
    microbatches: int
    plan: str
    versions: tuple[tuple[str, str], ...]
    leaves: tuple[LeafType, ...]


def about(record: PlanRecord, state: RunState) -> About:
    """What there is to say of a state under a plan."""
    return About(record.model_name, record.fingerprint, record.microbatches, plan_io.to_json(record), _versions(),
                 leaf_types(state))


def to_data(given: About) -> dict[str, Any]:
    """As plain data for JSON, with the checksum of the rest."""
    body = {"model": given.model_name, "fingerprint": given.fingerprint, "microbatches": given.microbatches,
            "versions": dict(given.versions), "leaves": [[x.name, list(x.shape), x.dtype] for x in given.leaves],
            "plan": given.plan}
    return {"format": _FORMAT, "checksum": _checksum(body), "about": body}


def from_data(document: Any) -> About:
    """Back from what `to_data` made.

    Raises:
      ValueError: of another format, or damaged; says which.
    """
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError("what it says of itself is not in the format that this version reads")
    body = document.get("about")
    if not isinstance(body, dict) or document.get("checksum") != _checksum(body):
        raise ValueError("what it says of itself is damaged")
    return About(body["model"], body["fingerprint"], body["microbatches"], body["plan"],
                 tuple(sorted(body["versions"].items())),
                 tuple(LeafType(name, tuple(shape), dtype) for name, shape, dtype in body["leaves"]))


def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # planner run from its source folder, say
            continue
    return tuple(sorted(found))


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
