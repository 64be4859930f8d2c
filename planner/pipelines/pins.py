"""Pins on schedules: what contradicts the schedule, the cluster or the batch, refused before anything is traced.

In: pins, what is planned, where. Out: nothing, or a `PinError` that says how to mend it.
"""

from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.costs.topology import submeshes
from planner.errors import PinError
from planner.pipelines.shapes import CHUNKS
from planner.schedules import SCHEDULES, Schedule


def check_schedule(pins: Pins, kind: str, cluster: Cluster) -> None:
    """Refuse a schedule, or stages per rank, that cannot be.

    Raises:
      PinError, UnknownNameError: see their messages.
    """
    schedule = None if pins.schedule is None else SCHEDULES[pins.schedule]
    if schedule is not None and schedule.trains != (kind == "train") and kind != "step":
        fit = ", ".join(n for n in SCHEDULES if SCHEDULES[n].trains == (kind == "train"))
        raise PinError(f"schedule {schedule.name!r} does not serve {kind}", f"these do: {fit}")
    if pins.chunks is not None:
        _check_chunks(pins.chunks, schedule, kind)
    if stages_per_rank(pins) > 1:
        _check_ranks(pins, schedule, cluster)


def stages_per_rank(pins: Pins) -> int:
    """The fewest stages per rank that pins ask for."""
    return pins.chunks or (SCHEDULES[pins.schedule].chunks[0] if pins.schedule is not None else 1)


def _check_chunks(chunks: int, schedule: Schedule | None, kind: str) -> None:
    if chunks < 1:
        raise PinError(f"{chunks} stages per rank", "ask for at least one")
    several = ", ".join(n for n in SCHEDULES if SCHEDULES[n].chunks[0] > 1)
    if kind != "train" and chunks > 1:
        raise PinError(f"{chunks} stages per rank for {kind}", "drop the pin: only training has such schedules")
    if schedule is None:
        return
    fewest, most = schedule.chunks
    if chunks < fewest or (most is not None and chunks > most):
        want = str(fewest) if most == fewest else f"{fewest} to {most}" if most else f"{fewest} or more"
        raise PinError(f"{chunks} stages per rank under schedule {schedule.name!r}, which has {want}",
                       f"pin chunks={fewest}" if fewest > 1 else f"pin another ({several}), or drop chunks")


def _check_ranks(pins: Pins, schedule: Schedule | None, cluster: Cluster) -> None:
    """Refuse numbers of stages and microbatches that no number of ranks has."""
    name = f"schedule {schedule.name!r}" if schedule else f"{pins.chunks} stages per rank"
    ranks = sorted({cluster.device_count // s.device_count for s in submeshes(cluster)
                    if cluster.device_count % s.device_count == 0 and s.device_count < cluster.device_count})
    if not ranks:
        raise PinError(f"{name} on {cluster.device_count} device", "a pipeline needs at least two")
    stages = pins.stages if pins.stages is not None else len(pins.boundaries) + 1 if pins.boundaries else None
    if stages is not None:
        fit = [r for r in ranks if stages % r == 0 and _has(schedule, pins, stages // r)]
        if not fit:
            fewest = stages_per_rank(pins)
            raise PinError(f"{stages} stages under {name} on {cluster.device_count} devices",
                           f"ask for ranks × stages per rank, e.g. {', '.join(str(r * fewest) for r in ranks)}")
        ranks = fit
    rounds = schedule is not None and schedule.in_rounds
    if rounds and pins.microbatches is not None and all(pins.microbatches % r for r in ranks):
        raise PinError(f"{pins.microbatches} microbatches under {name}, which runs them in rounds of all ranks",
                       f"use a multiple of {' or '.join(map(str, ranks))}")


def _has(schedule: Schedule | None, pins: Pins, chunks: int) -> bool:
    if pins.chunks is not None:
        return chunks == pins.chunks
    fewest, most = schedule.chunks if schedule else (min(CHUNKS), None)
    return fewest <= chunks and (most is None or chunks <= most)
