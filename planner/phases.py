"""What planning takes, phase by phase: seconds that add up, as a phase inside another is no part of the outer one.

In: names of phases, around what is done. Out: seconds by name.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Seconds by phase, in the order in which they were first entered."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _inner: list[float] = field(default_factory=list[float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Add the seconds spent inside to a phase, but for those of other phases entered there."""
        self.seconds.setdefault(name, 0.0)
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.seconds[name] += whole - self._inner.pop()
            if self._inner:
                self._inner[-1] += whole
