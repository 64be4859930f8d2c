"""A time as a function of bytes where one of several ways is taken, whichever is fastest: the least of straight lines.

In: lines. Out: a `Curve`, to be added up, scaled and read at any number of bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Line = tuple[float, float]
"""(fixed seconds, seconds per byte)."""


@dataclass(frozen=True, slots=True)
class Curve:
    """min over `lines` of `fixed_s + per_byte_s * bytes`; lines that are never the least are left out."""

    lines: tuple[Line, ...] = ((0.0, 0.0),)

    @classmethod
    def line(cls, fixed_s: float, per_byte_s: float) -> "Curve":
        """A single way."""
        return cls(((fixed_s, per_byte_s),))

    @classmethod
    def least(cls, lines: list[Line]) -> "Curve":
        """The lower envelope of lines, for bytes from zero on, by ascending fixed time."""
        kept: list[Line] = []
        for line in sorted(set(lines)):
            if kept and line[1] >= kept[-1][1]:
                continue
            while len(kept) > 1 and _meet(kept[-2], line) <= _meet(kept[-2], kept[-1]):
                kept.pop()
            kept.append(line)
        return cls(tuple(kept))

    @property
    def slope_s_per_byte(self) -> float:
        """Seconds per byte where there are many."""
        return self.lines[-1][1]

    def __add__(self, other: "Curve") -> "Curve":
        """One after the other."""
        return Curve.least([(a + c, b + d) for a, b in self.lines for c, d in other.lines])

    def or_else(self, other: "Curve") -> "Curve":
        """The one or the other, whichever is faster."""
        return Curve.least([*self.lines, *other.lines])

    def of_share(self, share: float) -> "Curve":
        """The same on `share` of the bytes."""
        return Curve(tuple((fixed, per_byte * share) for fixed, per_byte in self.lines))

    def without_start(self) -> "Curve":
        """What its bytes take where another has paid for the start."""
        return Curve.line(0.0, self.slope_s_per_byte)

    def at(self, size_bytes: float) -> float:
        """Seconds for that many bytes."""
        return min(fixed + per_byte * size_bytes for fixed, per_byte in self.lines)

    def over(self, size_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds for each of many numbers of bytes."""
        return np.min([fixed + per_byte * size_bytes for fixed, per_byte in self.lines], axis=0)


def _meet(first: Line, second: Line) -> float:
    """Bytes at which the second line, of a smaller slope, becomes the lower one."""
    return (second[0] - first[0]) / (first[1] - second[1])
