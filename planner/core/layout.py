"""Which rank runs which stage of a pipeline: a rank is a group of devices, and may run several stages (virtual stages).

Three placements are known: a *line*, one stage per rank; a *loop*, in which stage k of R ranks is on rank k mod R
(interleaved; Narayanan et al., arXiv:2104.04473, section 2.2); and a *vee*, in which the second half of the stages goes
back over the ranks of the first, so that the first and the last stage are together (Qi et al., arXiv:2401.10241,
section 6, and arXiv:2405.15362).

In: devices per stage, or a placement and its size. Out: a `Layout`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Placement(StrEnum):
    """How stages lie on ranks; see the module."""

    LINE = "line"
    LOOP = "loop"
    VEE = "vee"


@dataclass(frozen=True, slots=True)
class Layout:
    """The rank of every stage. Ranks are numbered in the order in which stages first name them."""

    rank_of: tuple[int, ...]

    @property
    def stages(self) -> int:
        return len(self.rank_of)

    @property
    def ranks(self) -> int:
        return max(self.rank_of) + 1

    @property
    def chunks(self) -> int:
        """The most stages that a rank runs."""
        return max(map(self.rank_of.count, range(self.ranks)))

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages of a rank, in order."""
        return tuple(s for s, r in enumerate(self.rank_of) if r == rank)

    def follows(self, placement: Placement) -> bool:
        """Whether it is that placement of as many ranks and stages."""
        return self == placed(placement, self.ranks, self.chunks)


def placed(placement: Placement, ranks: int, chunks: int = 1) -> Layout:
    """That many ranks with that many stages each. A line has one stage per rank, a vee two, whatever is asked for."""
    if placement is Placement.LINE:
        return Layout(tuple(range(ranks)))
    if placement is Placement.LOOP:
        return Layout(tuple(range(ranks)) * chunks)
    return Layout((*range(ranks), *reversed(range(ranks))))


def layout_of(groups: Sequence[Hashable]) -> Layout:
    """The layout of stages that each name their group of devices: equal groups are one rank."""
    known: dict[Hashable, int] = {}
    return Layout(tuple(known.setdefault(group, len(known)) for group in groups))
