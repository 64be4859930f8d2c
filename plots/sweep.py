"""Cost, time, utilisation and memory of a model over clusters and sizes, from the saved rows of sweeps in `data/`."""

import json
from pathlib import Path

from planner.core.sweeps import Sweep
from planner.report.sweep_plot import plot_sweep

HERE = Path(__file__).resolve().parent


def main() -> None:
    for source in sorted((HERE / "data").glob("*.sweep.json")):
        name = source.name.removesuffix(".sweep.json")
        plot_sweep(Sweep.from_data(json.loads(source.read_text())), HERE / f"{name}-sweep.png")


if __name__ == "__main__":
    main()
