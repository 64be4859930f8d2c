"""Which cluster to rent: a small GPT planned for three kinds of machines, without any of them at hand."""

from rich import print as show

import planner
from planner.report import sweep_words


def main() -> None:
    terms = planner.Terms(planner.Training(tokens=5e9), deadline_h=24)
    found = planner.sweep("gpt-125m", ["dgx-h100", "dgx-a100", "p3.16xlarge"], batches=[64], terms=terms,
                          pins=planner.Pins(stages=1), on_row=lambda row, done, total: print(f"{done} of {total}"))
    show(sweep_words.report(found))

    best = found.best().row
    assert best is not None
    print(f"cheapest within a day: {best.place}, {best.hours:.1f} hours, {best.usd:.0f} USD")
    print("none is both faster and cheaper than:", ", ".join(row.place for row in found.pareto()))


if __name__ == "__main__":
    main()
