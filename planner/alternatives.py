"""What a plan would cost with another number of microbatches or stages, or on other meshes: what the search saw of it.

Nothing is searched for this: the best candidate of every count is remembered as it passes by, recipes among them, so
that of counts that were not built for only such a recipe may be known. Other meshes are those of the stage that sets
the pace, all else left as it is.

In: the `Run` of a search, the plan chosen. Out: `Alternative`s, near counts first.
"""

from collections.abc import Iterator

import numpy as np

from planner.candidates import Outcome
from planner.core.alternative import Alternative
from planner.pipelines.pipeline import Candidate
from planner.pipelines.stages import pipeline_time_s
from planner.record import Run, Sighting
from planner.spaces import MeshSpace


def alternatives(run: Run, best: Candidate, usable: float) -> tuple[Alternative, ...]:
    """Of other microbatch counts, stage counts, meshes."""
    found: list[Alternative] = []
    for about, mine in (("microbatches", best.microbatches), ("stages", len(best.stages))):
        others = {count: seen for (what, count), seen in run.seen.items() if what == about and count != mine}
        if about == "microbatches":
            others |= dict.fromkeys(set(run.tried) - set(others) - {mine})
        near = sorted(others, key=lambda count: (max(count / mine, mine / count), count))
        found += [_of_count(about, count, others[count], run, usable) for count in near]
    meshes = run.meshes[1] if run.meshes is not None and run.meshes[0] is best else ()
    return (*found, *meshes)


def look_at_meshes(run: Run, outcome: Outcome) -> None:
    """Where the best candidate so far is of this outcome, remember what other meshes would cost it."""
    if run.best is not None and any(run.best is c for c in outcome.candidates):
        run.meshes = run.best, other_meshes(outcome, run.best)


def other_meshes(outcome: Outcome, best: Candidate) -> tuple[Alternative, ...]:
    """What the slowest stage of the best candidate would take on the other meshes of its devices; nothing if that
    candidate has other stages than the outcome chose."""
    if outcome.choice is None or [(s.first, s.last) for s in best.stages] != [s[:2] for s in outcome.choice.stages]:
        return ()
    return tuple(sorted(_meshes(outcome, best), key=lambda a: (a.step_time_s is None, a.step_time_s or 0.0, a.choice)))


def _meshes(outcome: Outcome, best: Candidate) -> Iterator[Alternative]:
    costs, choice = outcome.builder.costs, outcome.choice
    assert choice is not None
    entries = outcome.builder.entries(choice)
    times = [costs.time_s(e) for e in entries]
    slow = int(np.argmax(times))
    index, m, first, last = entries[slow]
    usable, microbatches = costs.usable_bytes(m), outcome.builder.microbatches
    where = f" for stage {slow}" if len(entries) > 1 else ""
    for space in costs.spaces[m].meshes:
        if space == costs.space(entries[slow]):
            continue
        table = costs.tables[space]
        own = table.useful.of(table.of(first, last))
        need, fastest = own.memory_bytes(costs.flights[index]), own.fitting(costs.flights[index], usable)
        if fastest is None:
            yield Alternative("mesh", f"mesh {_named(space)}{where}", None, None,
                              _missing(float(need.min(initial=np.inf)), usable))
            continue
        changed = list(times)
        changed[slow] = float(own.step_s(microbatches)[fastest]) + costs.hand_over_s(entries[slow])
        more = pipeline_time_s(changed, microbatches) - pipeline_time_s(times, microbatches)
        yield Alternative("mesh", f"mesh {_named(space)}{where}", best.step_time_s + more, int(need[fastest]),
                          note="all else as it is" if len(entries) > 1 else "")


def _named(space: MeshSpace) -> str:
    return ", ".join(f"{n}={size}" for n, size in zip(space.names, space.mesh.shape, strict=True)) or "of one device"


def _of_count(about: str, count: int, seen: Sighting | None, run: Run, usable: float) -> Alternative:
    choice = f"{count} {'microbatches' if about == 'microbatches' else 'stages'}"
    choice = choice if count > 1 else choice.removesuffix("es" if about == "microbatches" else "s")
    if seen is None:
        return Alternative(about, choice, None, None, _missing(run.least_peaks.get(count, 0.0), usable))
    other = seen.stages if about == "microbatches" else seen.microbatches
    noun = "stage" if about == "microbatches" else "microbatch"
    note = f"{other} {noun}" if other == 1 else f"{other} {noun}{'s' if noun == 'stage' else 'es'}"
    if seen.stages > 1:
        note += f", {seen.schedule}"
    if seen.rank[0]:
        return Alternative(about, choice, None, None, _missing(seen.peak_bytes, usable), note)
    return Alternative(about, choice, seen.rank[1], int(seen.peak_bytes), 0, note)


def _missing(need: float, usable: float) -> int:
    """Bytes by which the least that was seen is too much; 0 where that is not known."""
    return int(max(0.0, need - usable)) if np.isfinite(need) else 0
