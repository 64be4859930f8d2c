"""What a graph is worth in the search for rewrites: what fits before what does not; then bytes that are missing, then
seconds.

In: bytes and seconds of `pricing.py`. Out: which of two is better, and whether one is near enough to be looked into.
"""

from dataclasses import dataclass, field

GAIN = 1e-3
"""Part of a step, or of a device's memory, below which two graphs are worth as much. [chosen: the model of costs is not
as good as that]"""


@dataclass(frozen=True, order=True)
class Price:
    """Ordered: the best is the least.

    Attributes:
      missing_bytes: of a device's memory, on the mean of the places; 0 where the model fits.
      seconds: of a step of the model; where it does not fit, of the shardings that need least memory.
      usable_bytes: of a device's memory, likewise.
    """

    missing_bytes: float
    seconds: float
    usable_bytes: float = field(compare=False)

    def __str__(self) -> str:
        """`"12.3 ms/step"`, or `"1.2 GB missing"`."""
        return f"{self.seconds * 1e3:.4g} ms/step" if self.fits else f"{self.missing_bytes / 1e9:.4g} GB missing"

    @property
    def fits(self) -> bool:
        """Whether nothing is missing."""
        return self.missing_bytes <= 0

    @property
    def fullness(self) -> float:
        """What is needed of a device, as a part of what may be used; 1 where it fits."""
        return 1 + max(0.0, self.missing_bytes) / self.usable_bytes

    def gains_over(self, other: "Price") -> bool:
        """Whether it is better by more than the costs are sure of. To fit is better than not to, however closely."""
        if self.fits != other.fits:
            return self.fits
        if self.fullness < other.fullness * (1 - GAIN):
            return True
        return self.missing_bytes <= other.missing_bytes and self.seconds < other.seconds * (1 - GAIN)

    def is_within(self, times: float, best: "Price") -> bool:
        """Whether it takes at most so many times what the best takes, in memory as long as that does not fit."""
        if best.fits:
            return self.fits and self.seconds <= times * best.seconds
        return self.fullness <= times * best.fullness
