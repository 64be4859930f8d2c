"""Predicted against published step times of GPT on one node of A100 GPUs: error, and regret of the run it would choose.

    python benchmarks/published.py ../shared/measured/a100_single_node_gpt.csv

The file has one run a row (vTrain's repository, MIT licence): GPUs, batch, microbatch, hidden size, heads, layers,
sequence, degrees of tensor, data and pipeline parallelism, milliseconds. `megatron.py` prices a run from these and the
profile. Its constants of PyTorch's runtime are fitted on four fifths of the runs and judged on the other fifth, in two
ways: the fifths hold whole shapes of layers that the fit never saw (hidden size, microbatch, tensor parallelism), or
single runs, where a shape that other runs have is corrected by them, as a profile of that layer would. Regret: by how
much the measured time of the run predicted fastest exceeds the fastest measured, per model, GPUs and batch.

    python benchmarks/published.py benchmarks/published_runs/megatron_sc21.csv --cluster dgx-a100 --recompute \\
        --fit-on ../shared/measured/a100_single_node_gpt.csv

judges the runs of one file by constants fitted on another: many nodes, larger models.
"""

import argparse
import csv
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from agreement import kendall_tau, regret
from megatron import PLAIN, Run, Runtime, head_s, layer_s, step_s
from numpy.typing import NDArray
from recording import append, environment
from scipy.optimize import least_squares

import planner
from planner.core.hardware import Cluster

FOLDS = 5
BOUNDS = {"wire": (0.7, 1.0), "matmul": (0.3, 1.0), "update_bytes": (16.0, 80.0), "width_passes": (10.0, 60.0),
          "inner_passes": (15.0, 80.0), "apart": (1.5, 20.0)}
"""Fitted constants stay plausible: NCCL reaches most of its bus bandwidth, Adam moves 16 bytes of state and more, and
the kernels of a layer that are not fused pass over their tensors some tens of times."""

Shape = tuple[int, ...]


def main() -> None:
    """Read, fit, judge, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, nargs="?", default=Path("../shared/measured/a100_single_node_gpt.csv"))
    parser.add_argument("--cluster", default="dgx-a100-40gb", help="profile (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "published.jsonl")
    parser.add_argument("--fit-on", type=Path, metavar="CSV", help="fit on these runs, judge the others by them")
    parser.add_argument("--recompute", action="store_true", help="the runs judged recompute every layer's forward")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    options = parser.parse_args()
    if not options.csv.exists():
        print(f"{options.csv} is not there: skipped. Give the path of the file with measured runs.")
        sys.exit(0)
    judge = judge_of(options.csv, options.cluster, options.seed, recompute=options.recompute)
    runs = judge.runs
    print(f"{len(runs)} runs, {len(judge.groups())} choices of (model, GPUs, batch), profile {options.cluster}\n")
    print(f"{'':<44}{'mean |error|':>13}{'median':>9}{'regret':>9}{'worst':>9}{'tau':>7}")
    ways: dict[str, Callable[[], NDArray[np.float64]]] = {
        "constants as they start, nothing fitted": judge.unfitted,
        "fitted; whole shapes of layers held out": judge.shapes_held_out,
        "fitted; runs held out, shapes profiled": judge.runs_held_out,
    }
    fitter = judge
    if options.fit_on:
        fitter = other = judge_of(options.fit_on, options.cluster, options.seed, recompute=False)
        ways = {f"fitted on {options.fit_on.stem}": lambda: judge.predict(judge.all, other.fit(other.all))}
    for name, way in ways.items():
        found = judge.figures(way())
        print(f"{name:<44}{found['mean_error']:>12.1%} {found['median_error']:>8.1%} {found['mean_regret']:>8.1%} "
              f"{found['worst_regret']:>8.1%} {found['tau']:>6.2f}", flush=True)
        append(options.out, {"way": name, "runs": len(runs), "seed": options.seed, "profile": options.cluster,
                             **{k: round(v, 4) for k, v in found.items()}, **environment()})
    constants = dataclasses.asdict(fitter.fit(fitter.all))
    print("\nfitted on all of them:", ", ".join(f"{name} {value:.3g}" for name, value in constants.items()))


def judge_of(path: Path, cluster: str, seed: int, *, recompute: bool) -> "Judge":
    """The runs of a file, on as many nodes of a profile as the largest needs."""
    runs, measured = read(path)
    per = planner.cluster(cluster).devices_per_node
    nodes = max(1, -(-max(run.devices for run in runs) // per))
    return Judge([dataclasses.replace(run, recompute=recompute) for run in runs], measured,
                 planner.cluster(cluster, nodes=nodes), seed)


def read(path: Path) -> tuple[list[Run], NDArray[np.float64]]:
    """Runs and their measured seconds."""
    with path.open() as file:
        rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    runs = [Run(*map(int, row[1:10])) for row in rows]
    wrong = [n for n, (run, row) in enumerate(zip(runs, rows, strict=True), 1) if run.devices != int(row[0])]
    if wrong:
        raise SystemExit(f"{path}: the degrees of row {wrong[0]} don't multiply to its GPUs")
    return runs, np.array([float(row[10]) / 1e3 for row in rows])


@dataclasses.dataclass(frozen=True)
class Judge:
    """Runs with measured seconds, on a cluster; `seed` deals them into folds."""

    runs: Sequence[Run]
    measured: NDArray[np.float64]
    cluster: Cluster
    seed: int

    @property
    def all(self) -> NDArray[np.int64]:
        """Every run's number."""
        return np.arange(len(self.runs))

    def unfitted(self) -> NDArray[np.float64]:
        """With the constants that fits start from."""
        return self.predict(self.all, PLAIN)

    def shapes_held_out(self) -> NDArray[np.float64]:
        """Each run by a fit that has seen no run of its shape."""
        shapes = sorted({shape(run) for run in self.runs})
        dealt = dict(zip(shapes, self._deal(len(shapes)), strict=True))
        return self._held_out(np.array([dealt[shape(run)] for run in self.runs]), profiled=False)

    def runs_held_out(self) -> NDArray[np.float64]:
        """Each run by a fit that has not seen it, corrected by what the layer of its shape took in those it has."""
        return self._held_out(self._deal(len(self.runs)), profiled=True)

    def fit(self, known: NDArray[np.int64]) -> Runtime:
        """The constants of the runtime that fit these runs best: least squares of relative errors, outliers damped.
        A few hundred runs say as much as all."""
        some = known[:: max(1, len(known) // 250)]
        names = [f.name for f in dataclasses.fields(Runtime)]
        start = np.array([getattr(PLAIN, name) for name in names])
        limits = np.array([BOUNDS.get(name, (s / 10, s * 20)) for name, s in zip(names, start, strict=True)])
        low, high = limits[:, 0] / start, limits[:, 1] / start

        def residuals(factors: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.log(self.predict(some, Runtime(*(float(x) for x in factors * start))) / self.measured[some])

        found = least_squares(residuals, np.clip(np.ones(len(start)), low, high), bounds=(low, high), loss="soft_l1",
                              f_scale=0.1, diff_step=1e-3, max_nfev=40)
        return Runtime(*(float(x) for x in found.x * start))

    def figures(self, predicted: NDArray[np.float64]) -> dict[str, float]:
        """Error over all runs; regret over all choices; rank correlation within them."""
        error = np.abs(predicted / self.measured - 1)
        choices = [group for group in self.groups() if len(group) > 1]  # where there is none, the order of all runs
        regrets = [regret(predicted[group].tolist(), self.measured[group].tolist()) for group in self.groups()]
        return {"mean_error": float(error.mean()), "median_error": float(np.median(error)),
                "mean_regret": float(np.mean(regrets)), "worst_regret": float(max(regrets)),
                "tau": statistics.fmean(kendall_tau(predicted[g].tolist(), self.measured[g].tolist())
                                        for g in choices or [list(self.all)])}

    def groups(self) -> list[list[int]]:
        """Runs between which a user would choose: equal model, GPUs and batch."""
        found: dict[tuple[int, ...], list[int]] = {}
        for n, run in enumerate(self.runs):
            found.setdefault((run.hidden, run.layers, run.sequence, run.devices, run.batch), []).append(n)
        return list(found.values())

    def _deal(self, count: int) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(count) % FOLDS

    def _held_out(self, fold: NDArray[np.int64], *, profiled: bool) -> NDArray[np.float64]:
        predicted = np.zeros(len(self.runs))
        for n in range(FOLDS):
            known, asked = np.flatnonzero(fold != n), np.flatnonzero(fold == n)
            runtime = self.fit(known)
            predicted[asked] = self.predict(asked, runtime)
            if profiled:
                seen = self.measured[known] / self.predict(known, runtime)
                of: dict[Shape, list[float]] = {}
                for k, ratio in zip(known, seen, strict=True):
                    of.setdefault(shape(self.runs[k]), []).append(float(ratio))
                predicted[asked] *= [statistics.median(of.get(shape(self.runs[a]), [1.0])) for a in asked]
        return predicted

    def predict(self, some: NDArray[np.int64], runtime: Runtime) -> NDArray[np.float64]:
        """Seconds of some of the runs under these constants."""
        found = np.array([step_s(self.runs[n], self.cluster, runtime) for n in some])
        layer_s.cache_clear()  # keyed by the constants, which no other call has
        head_s.cache_clear()
        return found


def shape(run: Run) -> Shape:
    """What decides the time of a layer."""
    return run.hidden, run.heads, run.sequence, run.microbatch, run.tensor


if __name__ == "__main__":
    main()
