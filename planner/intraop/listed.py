"""The steps of a resharding as a plan's communications: for what, on which side of it, along which dimensions.

In: `Step`s and the specs that they lead from and to. Out: `Collective`s.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from planner.core.plan import Collective
from planner.core.spec import Spec
from planner.costs.resharding import Step


@dataclass(frozen=True, slots=True)
class Place:
    """As in `Collective`."""

    per: str
    phase: str
    where: str
    side: str


def listed(steps: Iterable[Step], place: Place, src: Spec, dst: Spec) -> list[Collective]:
    """One communication per step, with the dimensions that its axes cut before and after."""
    return [Collective(s.kind, s.axes, s.bytes, s.time_s, place.per, place.phase, place.where, side=place.side,
                       cut=_cut(src, s.axes), cuts=_cut(dst, s.axes)) for s in steps]


def _cut(spec: Spec, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d, on in enumerate(spec) if set(on) & set(axes))
