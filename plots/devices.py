"""Stages on the grid of nodes and devices."""

from pathlib import Path

from planner.core import plan_io
from planner.report import plots

HERE = Path(__file__).resolve().parent


def main() -> None:
    for source in sorted((HERE / "data").glob("*.plan.json")):
        name = source.name.removesuffix(".plan.json")
        plots.plot(plan_io.load(source), HERE / f"{name}-devices.png", "devices")


if __name__ == "__main__":
    main()
