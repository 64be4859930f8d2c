"""Predictions joined with measurements of the same programs, and what to say of them.

In: rows that `calibration.py` wrote. Out: `Pair`s by model, a text.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement import agreement

RESULTS = Path(__file__).parent / "results"

MEASURED, PREDICTED = RESULTS / "calibration.jsonl", RESULTS / "calibration_predicted.jsonl"

BYTES_WITHIN = 0.1
"""Part by which bytes may be off."""

SHOWN = 6
"""Worst plans of a model in the report."""


@dataclass(frozen=True)
class Pair:
    """One plan: seconds predicted and measured; bytes communicated and peak memory, predicted over compiled."""

    plan: str
    predicted_s: float
    measured_s: float
    bytes_ratio: float | None
    memory_ratio: float | None

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
            pair = Pair(row["plan"], row["step_s"], own_s, ratio(row["collective_bytes"], met["collective_bytes"]),
                        ratio(row["peak_bytes"], met["peak_bytes"]))
            found.setdefault(row["model"], []).append(pair)
    return found


def ratio(predicted: float | None, compiled: float | None) -> float | None:
    """Predicted over compiled; 1 where there is nothing in both, infinite where only the plan has something."""
    if predicted is None or compiled is None:
        return None
    return predicted / compiled if compiled else 1.0 if not predicted else math.inf


def report(pairs: Mapping[str, Sequence[Pair]]) -> str:
    """Tables: one line per model, then the worst plans."""
    titles = ("plans", "error", "mean", "bias", "tau", "regret", "bytes", "memory")
    lines = [f"{'model':<14}" + "".join(f"{title:>8}" for title in titles)]
    for name, found in pairs.items():
        a = agreement([p.predicted_s for p in found], [p.measured_s for p in found])
        lines.append(_line(name, found, f"{a.tau:.2f}", f"{a.regret:.1%}"))
    lines += [_line("all", [p for found in pairs.values() for p in found], "", ""), ""]
    lines += ["bytes, memory: plans whose collective bytes and peak memory are within a tenth of the compiled ones", ""]
    for name, found in pairs.items():
        lines.append(f"{name}: predicted ← measured, worst first")
        for p in sorted(found, key=lambda p: -abs(math.log(p.ratio)))[:SHOWN]:
            lines.append(f"   {p.plan:<30}{p.predicted_s * 1e3:>8.1f} ←{p.measured_s * 1e3:>8.1f} ms{p.ratio:>7.2f}"
                         + (f"   bytes {p.bytes_ratio:.2f}" if p.bytes_ratio is not None else ""))
    return "\n".join(lines)


def _line(name: str, pairs: Sequence[Pair], tau: str, regret: str) -> str:
    errors = [abs(p.ratio - 1) for p in pairs]
    cells = (str(len(pairs)), f"{statistics.median(errors):.1%}", f"{statistics.fmean(errors):.1%}",
             f"{statistics.median(p.ratio for p in pairs):.2f}", tau, regret, within(p.bytes_ratio for p in pairs),
             within(p.memory_ratio for p in pairs))
    return f"{name:<14}" + "".join(f"{cell:>8}" for cell in cells)


def within(ratios: Iterable[float | None]) -> str:
    """How many of the known ratios are within a tenth."""
    known = [r for r in ratios if r is not None]
    return f"{sum(abs(r - 1) <= BYTES_WITHIN for r in known)}/{len(known)}"
