"""Step times predicted against measured, over forced plans of five tiny models on eight virtual CPU devices.

Drawn from the rows of `benchmarks/calibration.py`; on the line, prediction and measurement are equal.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from calibration_pairs import MEASURED, PREDICTED, joined, rows  # noqa: E402

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Okabe and Ito's, told apart by most eyes."""


def main() -> None:
    pairs = joined(rows(MEASURED), rows(PREDICTED), "median")
    figure, axes = plt.subplots(figsize=(6.4, 6.0), constrained_layout=True)
    for (name, found), colour in zip(pairs.items(), COLOURS, strict=False):
        axes.scatter([p.measured_s * 1e3 for p in found], [p.predicted_s * 1e3 for p in found], s=18, color=colour,
                     alpha=0.8, linewidths=0, label=f"{name} ({len(found)})")
    every = [s * 1e3 for found in pairs.values() for p in found for s in (p.measured_s, p.predicted_s)]
    low, high = min(every) / 1.2, max(every) * 1.2
    axes.plot([low, high], [low, high], color="0.3", linewidth=1)
    axes.fill_between([low, high], [low * 0.85, high * 0.85], [low * 1.15, high * 1.15], color="0.3", alpha=0.1,
                      linewidth=0, label="within 15 %")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="measured, ms a step",
             ylabel="predicted, ms a step", title="Forced plans on eight virtual CPU devices", aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(HERE / "predicted-measured.png", dpi=150)


if __name__ == "__main__":
    main()
