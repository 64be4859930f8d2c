"""Replicas of the whole pipeline on the parts of a mixed cluster, each with as many microbatches as it is fast.

Every part is planned for by itself with its number of microbatches, all of one size, by the same search as any plan.
Numbers of microbatches are first divided as the parts are fast alone; then microbatches go from the slowest replica to
others as long as that makes the slowest faster. Where a replica with more microbatches never takes less time, no other
division is better then: any that is had fewer for the slowest, so one more for another, which takes no less.

In: a `Request`, plans for parts alone, the step to beat. Out: a `PlanRecord` with `replicas`, or why there is none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product

from planner.cache.programs import for_microbatches
from planner.core.fingerprint import named
from planner.core.graph import Graph, Program, Role
from planner.core.plan import PlanRecord
from planner.core.replicas import Shares, together
from planner.costs.replica_sync import exchange_s, sync_s, with_received
from planner.errors import MemoryLimitError, PinError, PlannerError, RewriteError
from planner.offloading import fits, plan_or_offload
from planner.pipelines.pipeline import WORTH
from planner.request import Request
from planner.search import microbatch_counts

UNEVEN = 1.05
"""How much longer than on the mean a replica may take for shares of a number of microbatches to be worth planning.
[chosen: as many more make a pipeline's bubble smaller too, but programs of them are smaller]"""

TOTALS = 2
"""Numbers of microbatches of the whole batch that are planned. [chosen: each takes a few searches]"""

MOVES = 4
"""Moves of microbatches between replicas. [chosen: the first shares are mostly off by one or two]"""

Time = Callable[[int, int], float]
"""A replica and its microbatches -> seconds of its step; infinite where it does not fit."""


@dataclass
class Replicas:
    """Plans for parts with numbers of microbatches of one size, each made once."""

    request: Request
    parts: tuple[int, ...]
    total: int
    known: dict[tuple[int, int], PlanRecord | PlannerError] = field(
        default_factory=dict[tuple[int, int], PlanRecord | PlannerError])

    def plan(self, replica: int, count: int) -> PlanRecord | PlannerError:
        """The plan for a replica of so many microbatches, with the memory that gradients of the others take."""
        key = replica, count
        if key not in self.known:
            try:
                found = with_received(plan_or_offload(self._request(replica, count)), len(self.parts))
            except (MemoryLimitError, PinError) as fault:
                self.known[key] = fault
            else:
                fit = fits(found, found.cluster)
                self.known[key] = found if fit else MemoryLimitError(
                    f"gradients of {len(self.parts)} replicas do not fit {found.cluster.described}")
        return self.known[key]

    def time_s(self, replica: int, count: int) -> float:
        """See `Time`."""
        found = self.plan(replica, count)
        return found.step_time_s if isinstance(found, PlanRecord) else float("inf")

    def floor_s(self) -> float:
        """A bound below all replicas of these plans, whatever the shares."""
        each = [{m: p.lower_bound_s for (n, m), p in self.known.items() if n == replica and isinstance(p, PlanRecord)}
                for replica in range(len(self.parts))]
        return min(max(bounds[m] for bounds, m in zip(each, shares, strict=True))
                   for shares in product(*each) if sum(shares) == self.total)

    def _request(self, replica: int, count: int) -> Request:
        """What is asked for one replica: its rows of the batch, on its part."""
        whole, total = self.request, self.total
        program: list[Program] = []

        def trace(_: int, update: Graph | None) -> Program:
            if not program:
                program.append(for_microbatches(whole.trace(total, update), count))
            return program[0]

        pins = replace(whole.pins, microbatches=count, replicas=None)
        return replace(whole, trace=trace, batch_size=whole.batch_size // total * count,
                       cluster=whole.cluster.parts[self.parts[replica]], pins=pins)


def shared(request: Request, alone: Sequence[tuple[int, PlanRecord]], to_beat_s: float) -> PlanRecord | PlannerError:
    """The best plan of replicas that was found, if one may take less than `to_beat_s`. `alone`: parts, each with its
    own best plan for the whole batch."""
    why_not = _why_not(request, alone)
    if why_not is not None:
        return PinError(why_not)
    wanted = request.pins.replicas
    groups = [g for n in range(len(alone), 1, -1) if wanted in (None, n) for g in combinations(alone, n)]
    best: PlanRecord | None = None
    floor_s = float("inf")
    reason: PlannerError = PinError(f"{wanted} replicas, of {len(alone)} parts that the model fits alone")
    for group in groups:
        least = _least_s(request, group)
        if least >= WORTH * min(to_beat_s, best.step_time_s if best else to_beat_s):
            reason = PinError(f"would take {least:.4g} s at best, gradients between parts included")
            continue
        for total in _totals(request, group):
            try:
                found = _planned(request, group, total)
            except RewriteError as fault:  # so many microbatches can't be rewritten as was asked
                found = fault
            if isinstance(found, PlannerError):
                reason = found
                continue
            floor_s = min(floor_s, found.lower_bound_s)
            if best is None or found.step_time_s < best.step_time_s:
                best = found
    return replace(best, lower_bound_s=min(floor_s, best.step_time_s)) if best else reason


def _why_not(request: Request, alone: Sequence[tuple[int, PlanRecord]]) -> str | None:
    """Why no replicas are possible."""
    if request.kind != "train":
        return "replicas share the batch of training alone"
    if len(alone) < 2:
        return "the model fits one part alone at most"
    if request.pins.microbatches is not None and request.pins.microbatches < 2:
        return "one microbatch is not shared"
    program = request.trace(alone[0][1].microbatches, None)
    return "state goes from each microbatch to the next" if any(program.micro.inputs_of(Role.STATE)) else None


def _least_s(request: Request, group: Sequence[tuple[int, PlanRecord]]) -> float:
    """About the least that replicas on these parts may take: all as fast as alone, and their gradients."""
    on = request.cluster
    return 1 / sum(1 / r.step_time_s for _, r in group) + exchange_s(on, [r for _, r in group])


def _totals(request: Request, group: Sequence[tuple[int, PlanRecord]]) -> list[int]:
    """Numbers of microbatches of the whole batch worth planning: the fewest that divide well, and those whose
    microbatches have the size that suits a part alone."""
    if request.pins.microbatches is not None:
        return [request.pins.microbatches]
    speeds = [1 / r.step_time_s for _, r in group]
    counts = [n for n in microbatch_counts(request.batch_size) if n >= len(group)]
    good = [n for n in counts if _unevenness(n, speeds) <= UNEVEN] or counts[-1:]
    own = sorted({r.microbatches for _, r in group} & set(good))
    return list(dict.fromkeys([*own, *good]))[:TOTALS]


def _unevenness(total: int, speeds: Sequence[float]) -> float:
    """How much longer the slowest takes than if microbatches could be cut."""
    shares, whole = first_shares(total, speeds), sum(speeds)
    return max(m / total * whole / speed for m, speed in zip(shares, speeds, strict=True))


def _planned(request: Request, group: Sequence[tuple[int, PlanRecord]], total: int) -> PlanRecord | PlannerError:
    replicas = Replicas(request, tuple(part for part, _ in group), total)
    request.progress(f"{request.cluster.name}: shares of {total} microbatches on {len(group)} parts")
    shares = balanced(total, replicas.time_s, [1 / r.step_time_s for _, r in group], MOVES)
    found: list[PlanRecord] = []
    for n, count in enumerate(shares):
        plan = replicas.plan(n, count)
        if isinstance(plan, PlannerError):
            return plan
        found.append(plan)
    on = request.cluster
    fingerprint = named(request.trace(total, None)).fingerprint
    about = Shares(on, replicas.parts, request.batch_size, fingerprint, sync_s(on, found), group[0][1].model_flops)
    return replace(together(about, found), pins=request.pins.describe(), lower_bound_s=replicas.floor_s())


def first_shares(total: int, speeds: Sequence[float]) -> list[int]:
    """So many microbatches divided as speeds are, at least one each: one after the other to whoever is done first."""
    shares = [max(1, int(total * speed / sum(speeds))) for speed in speeds]
    while sum(shares) > total:
        shares[max((n for n, m in enumerate(shares) if m > 1), key=lambda n: shares[n] / speeds[n])] -= 1
    while sum(shares) < total:
        shares[min(range(len(shares)), key=lambda n: (shares[n] + 1) / speeds[n])] += 1
    return shares


def balanced(total: int, time_s: Time, speeds: Sequence[float], moves: int) -> list[int]:
    """Microbatches of each replica, at most `total` replicas, such that the slowest takes least; see the module."""
    shares = first_shares(total, speeds)
    for _ in range(moves):
        times = [time_s(n, m) for n, m in enumerate(shares)]
        slow = times.index(max(times))
        better = _better(shares, times, slow, time_s) if shares[slow] > 1 else None
        if better is None:
            break
        shares = better
    return shares


def _better(shares: Sequence[int], times: Sequence[float], slow: int, time_s: Time) -> list[int] | None:
    """The same with microbatches moved from the slowest replica to another, which stays faster than that was."""
    others = sorted((n for n in range(len(shares)) if n != slow and times[n] < times[slow]),
                    key=lambda n: times[n] * (1 + 1 / shares[n]))
    for other in others:
        each = times[slow] / shares[slow] + times[other] / shares[other]
        jump = min(shares[slow] - 1, int((times[slow] - times[other]) / each)) if times[slow] < float("inf") else 1
        for count in dict.fromkeys((max(1, jump), 1)):
            if time_s(other, shares[other] + count) < times[slow]:
                found = list(shares)
                found[slow], found[other] = shares[slow] - count, shares[other] + count
                return found
    return None
