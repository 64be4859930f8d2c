"""What a plan would cost under other schedules: the best pipeline of each that a search found, or could say of it.

In: the `Run` of a search, the plan chosen. Out: a `ScheduleCost` per schedule that trains.
"""

from planner.core.hardware import Cluster
from planner.core.layout import Placement
from planner.core.plan import ScheduleCost
from planner.pipelines.pipeline import Candidate, under
from planner.record import Run
from planner.schedules import SCHEDULES


def schedule_costs(run: Run, best: Candidate, hardware: Cluster) -> tuple[ScheduleCost, ...]:
    """Empty if nothing is trained, or no pipeline was found. Schedules of one stage per rank that the search did not
    look at are priced on the stages chosen."""
    if best.prepared.program.kind != "train" or not run.under:
        return ()
    lines = [c for c in (best, *run.under.values()) if len(c.stages) > 1 and c.built.layout.follows(Placement.LINE)]
    found: list[ScheduleCost] = []
    for name in SCHEDULES:
        if not SCHEDULES[name].trains:
            continue
        candidate = best if name == best.schedule and len(best.stages) > 1 else run.under.get(name)
        if candidate is None and lines and SCHEDULES[name].placement is Placement.LINE:
            candidate = under(lines[0].prepared, hardware, lines[0].built, name)
        found.append(_unpriced(name, run) if candidate is None else _priced(candidate))
    return tuple(found)


def _priced(candidate: Candidate) -> ScheduleCost:
    layout, count = candidate.built.layout, candidate.microbatches
    stages = f"{layout.stages} stages" if layout.chunks == 1 else f"{layout.ranks} × {layout.chunks} stages"
    return ScheduleCost(candidate.schedule, candidate.step_time_s, candidate.bubble, int(candidate.peak_bytes),
                        candidate.fits, f"{stages}, {count} microbatch{'es' if count > 1 else ''}")


def _unpriced(name: str, run: Run) -> ScheduleCost:
    least_s = run.estimates.get(name)
    if least_s is None:
        note = "not looked at"
    else:
        note = f"not built: about {least_s:.3g} s at best" if least_s < float("inf") else "none of those looked at fits"
    return ScheduleCost(name, None, 0.0, None, False, note)
