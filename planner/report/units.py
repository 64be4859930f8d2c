"""Numbers as people read them: seconds, bytes, rates, shares and ranges. SI prefixes (1 GB = 10^9 bytes) everywhere."""

from collections.abc import Iterable

from planner.core.layout import Layout

PROVEN = 5e-7
"""A relative gap up to this is rounding of floating-point sums."""


def rank_name(layout: Layout, rank: int) -> str:
    """`"stage 2"`, or `"rank 0 (stages 0, 3)"` where ranks have several stages."""
    stages = layout.stages_of(rank)
    return f"stage {stages[0]}" if layout.chunks == 1 else f"rank {rank} (stages {', '.join(map(str, stages))})"


def row_name(layout: Layout, rank: int) -> str:
    """The same, short enough to stand beside a row: `"stage 2"`, `"stages 0, 3"`, or `"rank 0"` of more stages."""
    stages = layout.stages_of(rank)
    return rank_name(layout, rank) if layout.chunks == 1 else \
        f"stages {', '.join(map(str, stages))}" if len(stages) == 2 else f"rank {rank}"


def seconds(value: float) -> str:
    """A duration with three figures: `"1.23 ms"`; zero is `"0"`."""
    if value == 0:
        return "0"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= 0.9995 * size:
            return f"{figures(value / size)} {unit}"
    return f"{figures(value / 1e-9)} ns"


def whole_seconds(value: float) -> str:
    """A duration without a fraction: `"85 s"`, `"2 min 5 s"`."""
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def size(count: float) -> str:
    """A number of bytes with three figures: `"12.8 GB"`; zero is `"0"`."""
    return scaled(count, "B")


def rate(flops_per_s: float) -> str:
    """A computing rate: `"41.2 TFLOP/s"`."""
    return scaled(flops_per_s, "FLOP/s")


def scaled(value: float, unit: str) -> str:
    """A number with an SI prefix and three figures; zero is `"0"`."""
    if value == 0:
        return "0"
    for prefix, factor in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * factor:
            return f"{figures(value / factor)} {prefix}{unit}"
    return f"{figures(value)} {unit}"


def figures(value: float) -> str:
    """Three significant figures without an exponent for values from 0.001 to 999,999."""
    magnitude = abs(value)
    decimals = 0 if magnitude >= 99.95 else 1 if magnitude >= 9.995 else 2 if magnitude >= 0.9995 else 3
    return f"{value:,.{decimals}f}"


def plain(value: float) -> str:
    """A number without a unit, in a column of its own unit; zero is `"0"`."""
    return "0" if value == 0 else "<0.001" if 0 < value < 5e-4 else figures(value)


def common_time(values: Iterable[float]) -> tuple[str, float]:
    """(unit, its seconds) in which the largest of the durations reads well, for a column or an axis."""
    top = max(values, default=0.0)
    return next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if top >= s), ("µs", 1e-6))


def common_size(values: Iterable[float]) -> tuple[str, float]:
    """(unit, its bytes) in which the largest of the sizes reads well, for a column or an axis."""
    top = max(values, default=0.0)
    return next(((u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if top >= s), ("kB", 1e3))


def share(fraction: float) -> str:
    """A part of a whole: `"12 %"`; a part that is there but small is `"<1 %"`."""
    return "<1 %" if 0 < fraction < 0.005 else f"{100 * fraction:.0f} %"


def times(seconds: float, plan_s: float) -> str:
    """A time beside a plan's: `"1.12 × this plan's time"`."""
    ratio = seconds / plan_s if plan_s else float("inf")
    return "as fast as this plan" if 0.995 < ratio < 1.005 else f"{ratio:.2f} × this plan's time"


def gap(fraction: float) -> str:
    """A proven gap: `"0"` for proven optimal, else one decimal: `"1.2 %"`."""
    return "0" if fraction <= PROVEN else "<0.1 %" if fraction < 5e-4 else f"{100 * fraction:.1f} %"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in ascending order, runs joined: `"0–3, 6"`; none is `"none"`."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs) or "none"


def plural(count: int, noun: str) -> str:
    """`"1 stage"`, `"2 stages"`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}es" if noun.endswith("ch") else f"{count:,} {noun}s"
