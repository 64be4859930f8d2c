"""The points of a sweep, and planning one of them: a plan, or the reason why there is none, becomes a row.

Points of one batch share the traced model. In: a `Grid`. Out: `SweepRow`s.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.api import request_for
from planner.cache.store import Cache
from planner.core import plan_io
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.core.plan import PlanRecord
from planner.core.sweeps import HOUR_S, SweepRow
from planner.errors import PlannerError
from planner.joint.plan import plan_jointly
from planner.model import Model
from planner.report import breakdown
from planner.request import Request, deadline_after
from planner.runtime.loop import amount_of

ModelOf = Callable[[int], Model]
"""A batch size -> the model with that batch."""


@dataclass(frozen=True)
class Training:
    """How much a run trains: of tokens, samples or steps, one; where a sample has no tokens, of the latter two."""

    tokens: float | None = None
    samples: float | None = None
    steps: float | None = None

    @property
    def words(self) -> str:
        """`"1e+12 tokens"`."""
        count, noun = next((n, noun) for n, noun in ((self.tokens, "tokens"), (self.samples, "samples"),
                                                     (self.steps, "steps")) if n is not None)
        return f"{count:,.15g} {noun}"

    def steps_of(self, batch: int, tokens_a_sample: int | None) -> float:
        """How many steps of a batch it takes.

        Raises:
          PlannerError: tokens are asked of samples that have none.
        """
        if self.steps is not None:
            return self.steps
        if self.samples is not None:
            return self.samples / batch
        assert self.tokens is not None
        if tokens_a_sample is None:
            raise PlannerError("a run of so many tokens, of a model whose batch holds no tokens",
                               "say how many samples or steps it takes")
        return self.tokens / (batch * tokens_a_sample)


@dataclass(frozen=True)
class Point:
    """One plan to make: its number, the cluster, the batch."""

    number: int
    cluster: Cluster
    batch: int


@dataclass(frozen=True)
class Grid:
    """What a sweep plans.

    Attributes:
      model: makes the model of a batch; for several processes, something that can be pickled.
      points: in the order of the rows.
      training: how much a run trains.
      pins: fixed for all.
      budget_s: seconds that the search for one point may take.
      plans: a folder where every plan is saved, or None.
      cache: folder and bound in bytes of the cache of solved tables; None: without one.
    """

    model: ModelOf
    points: tuple[Point, ...]
    training: Training
    pins: Pins
    budget_s: float | None = None
    plans: str | None = None
    cache: tuple[Path, int] | None = None


def planned(grid: Grid, points: Sequence[Point]) -> Iterator[tuple[Point, SweepRow]]:
    """Plan points, those of one batch together, for their traces; in the order of the batches otherwise as given."""
    for batch in dict.fromkeys(p.batch for p in points):
        model, request, fault = None, None, None
        for point in (p for p in points if p.batch == batch):
            try:
                if fault is None and request is None:
                    model = grid.model(batch)
                    cache = False if grid.cache is None else Cache(*grid.cache)
                    request = replace(request_for(model, point.cluster, cache=cache), pins=grid.pins)
            except PlannerError as error:
                fault = error
            if fault is not None or model is None or request is None:
                yield point, _failed(point, fault)
                continue
            yield point, _row(grid, point, model, replace(request, cluster=point.cluster))


def _row(grid: Grid, point: Point, model: Model, request: Request) -> SweepRow:
    try:
        record = plan_jointly(replace(request, deadline=deadline_after(grid.budget_s)))
        amount = amount_of(model.batch, model.batch_size)
        tokens = amount.count // model.batch_size if amount.unit == "tokens" else None
        if grid.plans is not None:
            _save(record, grid.plans, point)
        return _of(record, point, grid.training.steps_of(point.batch, tokens), tokens)
    except PlannerError as error:
        return _failed(point, error)


def _of(record: PlanRecord, point: Point, steps: float, tokens: int | None) -> SweepRow:
    cluster, step = point.cluster, record.step_time_s
    prices = [kind.price_usd_per_device_hour for kind in cluster.kinds]
    usd_per_hour = None if None in prices else sum(
        price * kind.device_count for price, kind in zip(prices, cluster.kinds, strict=True) if price is not None)
    rank = breakdown.fullest_rank(record)
    left = breakdown.kind_of_rank(record, rank).device.usable_bytes - record.rank_bytes[rank]
    hours, samples = steps * step / HOUR_S, record.batch_size / step
    return SweepRow(
        cluster.name, cluster.nodes, cluster.device_count, point.batch, step, samples,
        None if tokens is None else samples * tokens, breakdown.mfu(record), record.peak_bytes,
        int(left), len(record.stages), record.microbatches, record.schedule,
        record.gap, usd_per_hour, hours, None if usd_per_hour is None else hours * usd_per_hour)


def _failed(point: Point, error: PlannerError | None) -> SweepRow:
    return SweepRow(point.cluster.name, point.cluster.nodes, point.cluster.device_count, point.batch,
                    reason="" if error is None else error.what)


def _save(record: PlanRecord, folder: str, point: Point) -> None:
    name = f"{record.model_name}-{point.cluster.name}-{point.cluster.nodes}-{point.batch}.plan.json"
    place = Path(folder) / name.replace(os.sep, "-").replace(" ", "-")
    plan_io.save(record, place)
