"""`sweep()`: which cluster to rent, by planning the model on each.

In: a model, clusters by name, how many nodes, batches. Out: a `Sweep`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from planner import api, models, profiles
from planner.cache.store import Cache
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.core.sweeps import Sweep, SweepRow
from planner.errors import BatchError, MeshError, PlannerError
from planner.model import Model
from planner.sweeping.grid import Grid, ModelOf, Point, Training, planned
from planner.sweeping.workers import by_workers

MILLION = 1e6
"""Samples of a run where nobody says how long it is, so that rows have a price. [chosen]"""

OnRow = Callable[[SweepRow, int, int], None]
"""Called with each row as it is done, how many are done, and how many there are."""


@dataclass(frozen=True)
class Terms:
    """What a run takes and may take, and how it is planned.

    Attributes:
      training: how much is trained; None: a million samples.
      budget_usd, deadline_h: what the run may take; None: anything.
      prices: cluster name -> dollars of a device for an hour, instead of the profile's.
      jobs: processes that plan.
      budget_s: seconds that the search for one point may take.
      plans: a folder where the plan of every point is saved.
      cache: as in `planner.plan`.
    """

    training: Training | None = None
    budget_usd: float | None = None
    deadline_h: float | None = None
    prices: Mapping[str, float] | None = None
    jobs: int = 1
    budget_s: float | None = None
    plans: str | None = None
    cache: Cache | bool = True


def sweep(model: Model | str | ModelOf, clusters: Sequence[str | Cluster], *, nodes: Sequence[int] = (1,),
          batches: Sequence[int] = (), terms: Terms | None = None, pins: Pins | None = None,
          on_row: OnRow = lambda row, done, total: None) -> Sweep:
    """Plan a model on every cluster, with every number of nodes and every batch; what cannot be planned is a row that
    says why. Ctrl-C returns the rows so far.

    Args:
      model: the name of a zoo model, a function from a batch size to a `Model` (of a module, if `terms.jobs` is more
        than one), or a `Model`, whose own batch is the only one then.
      clusters: names of profiles or profile files, or one-node `Cluster`s; those of several parts are of one size.
      nodes: how many of each of the others.
      batches: batch sizes; of a `Model` there is one.
      terms: how much is trained, budget, deadline, prices, processes.
      pins: fixed in all plans.
      on_row: called as rows are done.

    Raises:
      UnknownNameError, ProfileError, MeshError: a cluster is unknown or unusable.
      BatchError, PlannerError: no batches, or terms that make no sense.
    """
    terms = terms or Terms()
    training = terms.training or Training(samples=MILLION)
    _check(terms, training)
    source, sizes, name = _source(model, batches)
    points = tuple(Point(number, cluster, batch) for number, (cluster, batch) in enumerate(
        product(_clusters(clusters, nodes, terms.prices or {}), sizes)))
    kept = api.cache_of(terms.cache)
    grid = Grid(source, points, training, pins or Pins(), terms.budget_s, terms.plans,
                None if kept is None else (kept.folder, kept.limit_bytes))
    found: dict[int, SweepRow] = {}
    work = by_workers(grid, min(terms.jobs, len(points))) if terms.jobs > 1 else planned(grid, points)
    try:
        for point, row in work:
            found[point.number] = row
            on_row(row, len(found), len(points))
    except KeyboardInterrupt:
        pass  # `complete` says so
    finally:
        work.close()  # type: ignore[attr-defined]  # both are generators
    return Sweep(name, training.words, tuple(found[n] for n in sorted(found)), len(found) == len(points),
                 terms.budget_usd, terms.deadline_h)


def _source(model: Model | str | ModelOf, batches: Sequence[int]) -> tuple[ModelOf, tuple[int, ...], str]:
    """What makes the model of a batch, the batches, the model's name."""
    if isinstance(model, Model):
        if tuple(batches) not in ((), (model.batch_size,)):
            raise BatchError(f"batches {tuple(batches)} of a model whose batch is {model.batch_size}",
                             "give a function from the batch size to the model")
        return partial(_the, model), (model.batch_size,), model.name
    if not batches or min(batches) < 1:
        raise BatchError(f"batches {tuple(batches)}", "give at least one batch size, each at least 1")
    if isinstance(model, str):
        return partial(_zoo, model), tuple(batches), model
    return model, tuple(batches), model(batches[0]).name


def _the(model: Model, batch: int) -> Model:
    return model


def _zoo(name: str, batch: int) -> Model:
    return models.build(name, batch_size=batch)


def _clusters(clusters: Sequence[str | Cluster], nodes: Sequence[int], prices: Mapping[str, float]) -> list[Cluster]:
    """Every cluster in every size, with its price."""
    if not clusters or not nodes:
        raise PlannerError("a sweep over no clusters", "name at least one cluster and one number of nodes")
    found: list[Cluster] = []
    for one in clusters:
        known = profiles.cluster(one) if isinstance(one, str) else one
        for count in nodes[:1] if known.parts else nodes:  # parts have their own numbers of nodes
            found.append(_priced(_sized(known, count), one, prices))
    named = {kind.name for c in found for kind in c.kinds} | {one for one in clusters if isinstance(one, str)}
    if unknown := sorted(set(prices) - named):
        raise PlannerError(f"a price for {unknown[0]!r}, which is none of the clusters",
                           f"the clusters are {', '.join(sorted(named))}")
    return found


def _sized(cluster: Cluster, nodes: int) -> Cluster:
    if nodes < 1:
        raise MeshError(f"a cluster of {nodes} nodes has no devices", "ask for at least one node")
    return cluster if cluster.parts else replace(cluster, nodes=nodes)


def _priced(cluster: Cluster, asked: str | Cluster, prices: Mapping[str, float]) -> Cluster:
    """With the prices given, of its parts where it has some, by the profile's name or as it was asked for."""
    if cluster.parts:
        return replace(cluster, parts=tuple(_priced(part, part, prices) for part in cluster.parts))
    named = next((name for name in (cluster.name, asked) if isinstance(name, str) and name in prices), None)
    return cluster if named is None else replace(cluster, price_usd_per_device_hour=prices[named])


def _check(terms: Terms, training: Training) -> None:
    given = [n for n in (training.tokens, training.samples, training.steps) if n is not None]
    if len(given) != 1 or not 0 < given[0] < float("inf"):
        raise PlannerError("how much is trained is not said by one number above zero",
                           "give tokens, samples or steps, one of them")
    for what, number in (("budget", terms.budget_usd), ("deadline", terms.deadline_h),
                         *((f"price of {name}", usd) for name, usd in (terms.prices or {}).items())):
        if number is not None and not 0 < number < float("inf"):
            raise PlannerError(f"a {what} of {number}", "give a number above zero")
    if terms.jobs < 1:
        raise PlannerError(f"{terms.jobs} processes", "give at least one")
