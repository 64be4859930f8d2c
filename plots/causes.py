"""What each stage spends a step on, by cause, waiting included."""

from pathlib import Path

from planner.core import plan_io
from planner.report import plots

HERE = Path(__file__).resolve().parent


def main() -> None:
    for source in sorted((HERE / "data").glob("*.plan.json")):
        name = source.name.removesuffix(".plan.json")
        plots.plot(plan_io.load(source), HERE / f"{name}-time.png", "time")


if __name__ == "__main__":
    main()
