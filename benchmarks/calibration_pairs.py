"""Predictions joined with measurements of the same programs, and what to say of them.

In: rows that `calibration.py` wrote. Out: `Pair`s by model, a text.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement import agreement

RESULTS = Path(__file__).parent / "results"

MEASURED, PREDICTED = RESULTS / "calibration.jsonl", RESULTS / "calibration_predicted.jsonl"

BYTES_WITHIN = 0.1

SHOWN = 6
"""Worst plans of a model in the report."""


@dataclass(frozen=True)
class Pair:
    """One plan: seconds predicted and measured, bytes communicated predicted over compiled (None: not known)."""

    plan: str
    predicted_s: float
    measured_s: float
    bytes_ratio: float | None

    @property
    def ratio(self) -> float:
        """Predicted over measured seconds."""
        return self.predicted_s / self.measured_s


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def joined(measured: Sequence[Mapping[str, Any]], predicted: Sequence[Mapping[str, Any]], statistic: str) -> \
        dict[str, list[Pair]]:
    """Model -> predictions with the latest measurement of the same program."""
    latest = {row["fingerprint"]: row for row in measured}
    found: dict[str, list[Pair]] = {}
    for row in predicted:
        if (met := latest.get(row["fingerprint"])) is not None:
            own_s = met["step_s"][statistic] * (1 - met["disturbed"])
            pair = Pair(row["plan"], row["step_s"], own_s, byte_ratio(row, met))
            found.setdefault(row["model"], []).append(pair)
    return found


def byte_ratio(predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> float | None:
    """Bytes of all collectives of a step, predicted over compiled; 1 where there are none in both."""
    if measured["collectives"] is None:
        return None
    ours, compiled = (sum(size * (predicted["microbatches"] if per == "microbatch" else 1) for per, _, size in
                          row["collectives"]) for row in (predicted, measured))
    return ours / compiled if compiled else 1.0 if not ours else math.inf


def report(pairs: Mapping[str, Sequence[Pair]]) -> str:
    """Tables: one line per model, then the worst plans."""
    lines = [f"{'model':<14}{'plans':>6}{'error':>8}{'mean':>8}{'bias':>7}{'tau':>7}{'regret':>8}{'bytes':>8}"]
    for name, found in pairs.items():
        a = agreement([p.predicted_s for p in found], [p.measured_s for p in found])
        lines.append(f"{name:<14}{a.count:>6}{a.median_error:>8.1%}{a.mean_error:>8.1%}{a.bias:>7.2f}{a.tau:>7.2f}"
                     f"{a.regret:>8.1%}{within(found):>8}")
    everything = [p for found in pairs.values() for p in found]
    errors = [abs(p.ratio - 1) for p in everything]
    lines.append(f"{'all':<14}{len(errors):>6}{statistics.median(errors):>8.1%}{statistics.fmean(errors):>8.1%}"
                 f"{statistics.median(p.ratio for p in everything):>7.2f}{'':>15}{within(everything):>8}")
    lines.append("\nbytes: plans whose collectives' bytes are within a tenth of the compiled program's\n")
    for name, found in pairs.items():
        lines.append(f"{name}: predicted ← measured, worst first")
        for p in sorted(found, key=lambda p: -abs(math.log(p.ratio)))[:SHOWN]:
            lines.append(f"   {p.plan:<30}{p.predicted_s * 1e3:>8.1f} ←{p.measured_s * 1e3:>8.1f} ms{p.ratio:>7.2f}"
                         + (f"   bytes {p.bytes_ratio:.2f}" if p.bytes_ratio is not None else ""))
    return "\n".join(lines)


def within(pairs: Sequence[Pair]) -> str:
    """How many of the plans whose bytes are known are within a tenth."""
    known = [p.bytes_ratio for p in pairs if p.bytes_ratio is not None]
    return f"{sum(abs(r - 1) <= BYTES_WITHIN for r in known)}/{len(known)}"

