"""Parallel operators of one distinct layer: the one that communicates longest."""

from pathlib import Path

from planner.core import plan_io
from planner.report import plots

HERE = Path(__file__).resolve().parent


def main() -> None:
    for source in sorted((HERE / "data").glob("*.plan.json")):
        name = source.name.removesuffix(".plan.json")
        plots.plot(plan_io.load(source), HERE / f"{name}-operators.png", "operators")


if __name__ == "__main__":
    main()
