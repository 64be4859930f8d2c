"""The default: reduce exactly, take independent parts one by one, and solve each by what its size allows.

Elimination where it is cheap; CP-SAT at once where there are few terms; else dual ascent, which removes what is too
dear, and CP-SAT on the rest; and where that is too much, merge and search (`large/`). What is found on the way is kept:
the answer has the lowest cost and the highest bound, and `Solution.solver` says what was done.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from planner.core.problem import INFINITE_COST, Problem, Solution, Status, evaluate
from planner.errors import ProblemError
from planner.solvers.cpsat import cpsat_within
from planner.solvers.cpsat_model import model_size
from planner.solvers.dual_ascent import Ascent, ascend
from planner.solvers.elimination import eliminated
from planner.solvers.elimination_code import WidthExceeded
from planner.solvers.reduce import LIGHT, RULES, Reduction, reduce_further
from planner.solvers.reductions.components import components
from planner.solvers.reductions.too_dear import remove_too_dear
from planner.solvers.table import SOLVERS, Progress, SolveOptions
from planner.solvers.workspace import Workspace

MAX_TABLE = 1_000_000
"""Entries of elimination's largest table: about a second of work at most [EPYC core]."""

REDUCTION_SHARE = 0.3
"""Part of the time limit that reductions may take."""

ASCENT_SHARE = 0.5
"""Part of the time limit by which the ascent ends; CP-SAT gets the rest."""

MAX_TERMS = 4_000_000
"""Terms of the largest CP-SAT model that is built (minutes beyond it); larger problems go to `large`."""

FEW_TERMS = 100_000
"""Terms of the largest model that CP-SAT gets as it is; between these two the problem is merged first."""

VERY_FEW_TERMS, EASY_WORK = 20_000, 0.5
"""Problems of fewer terms go to CP-SAT at once, for this much work (`cpsat_within`): where it succeeds, no bound is as
fast."""

WHOLE = 0.9
"""A problem whose largest part has more of its nodes than this is solved as a whole. [chosen]"""

LANDING_S = 1.0
"""Seconds kept for the last solution of a large problem: to carry it back and price it, about twice what S takes."""

PATIENCE = 60
"""Sweeps of the ascent without progress before it gives way to CP-SAT [fitted on contest instance G]."""


@dataclass
class _Run:
    """One solve: the problem, and the best that is known of it so far."""

    problem: Problem
    options: SolveOptions
    began: float
    choice: tuple[int, ...] | None = None
    cost: int | None = None
    bound: int = 0
    did: list[str] = field(default_factory=list[str])

    def learn_choice(self, choice: Sequence[int], bound: int = 0, *, tell: bool = True) -> int:
        """Take note of a choice, with the bound known when it was found; its cost."""
        verdict = evaluate(self.problem, tuple(choice))
        if verdict.feasible and (self.cost is None or verdict.cost < self.cost):
            self.choice, self.cost = tuple(choice), verdict.cost
            if tell and self.options.on_progress is not None:
                bound = min(max(bound, self.bound), verdict.cost)
                self.options.on_progress(Progress(verdict.cost, bound, time.perf_counter() - self.began))
        return verdict.cost

    def learn_bound(self, bound: int) -> None:
        """A bound on all solutions that are cheaper than the best; so it counts up to that one's cost only."""
        self.bound = max(self.bound, min(bound, INFINITE_COST if self.cost is None else self.cost))

    @property
    def is_closed(self) -> bool:
        return self.bound >= (INFINITE_COST if self.cost is None else self.cost)

    def left_s(self) -> float:
        return max(0.01, self.options.timeout_s - (time.perf_counter() - self.began))

    def answer(self) -> Solution:
        if self.cost is None:
            status = Status.INFEASIBLE if self.is_closed else Status.UNKNOWN
        else:
            status = Status.OPTIMAL if self.is_closed else Status.FEASIBLE
        spent = time.perf_counter() - self.began
        return Solution(self.choice, self.cost, self.bound, status, "auto: " + "; ".join(self.did), spent)


@SOLVERS.register("auto")
def auto(problem: Problem, options: SolveOptions) -> Solution:
    """Solve by the cheapest exact means that does it. Ctrl-C gives the best so far, if there is one."""
    run = _Run(problem, options, time.perf_counter())
    try:
        _solve(run)
    except KeyboardInterrupt:
        if run.choice is None or run.options.raises:
            raise
        run.did.append("interrupted")
    return run.answer()


def _solve(run: _Run) -> None:
    if run.options.hint is not None and min(run.options.hint, default=0) >= 0:
        run.learn_choice(run.options.hint)
    reduction = _reduce(run)
    if reduction.impossible:
        run.did.append(reduction.impossible)
        run.learn_bound(INFINITE_COST)
    elif len(parts := components(reduction.work)) > 1 and len(parts[-1]) <= WHOLE * sum(map(len, parts)):
        _solve_parts(run, reduction, parts)
    elif model_size(reduction.work) > MAX_TERMS:
        _search_large(run, reduction)
    elif not (_is_eliminated(run, reduction) or _is_easy(run, reduction)):
        reduction = _ascend(run, reduction)
        if not (run.is_closed or _is_eliminated(run, reduction)):
            search = _search if model_size(reduction.work) <= FEW_TERMS else _search_large
            search(run, reduction)


def _reduce(run: _Run) -> Reduction:
    """Reduce with all rules, or with the light ones what is large and stays so."""
    work = Workspace(run.problem)
    deadline = run.began + REDUCTION_SHARE * run.options.timeout_s
    is_large = model_size(work) > MAX_TERMS
    reduction = reduce_further(work, deadline=deadline, rules=LIGHT if is_large else RULES)
    if is_large and not reduction.impossible and model_size(work) <= MAX_TERMS:
        work.touch_all()
        reduction = reduce_further(work, deadline=deadline)
    run.did.append(f"reduced {len(run.problem.nodes)} to {len(work.remaining())} nodes")
    return reduction


def _solve_parts(run: _Run, reduction: Reduction, parts: list[tuple[int, ...]]) -> None:
    """Solve one by one, each in its share of the time; improvements of the last, the largest, are told of."""
    picks: dict[int, int] = {}
    bound = cost = reduction.constant
    run.did.append(f"{len(parts)} parts")
    for n, part in enumerate(parts):
        share = len(part) / sum(map(len, parts[n:]))
        is_last = n == len(parts) - 1
        report = partial(_report_last, run, cost, bound) if is_last and cost < INFINITE_COST else None
        options = replace(run.options, timeout_s=share * run.left_s(), hint=None, on_progress=report)
        found = auto(reduction.work.as_problem(part), options)
        bound = min(bound + found.bound, INFINITE_COST)
        if found.choice is None or found.cost is None:
            cost = INFINITE_COST
        else:
            picks |= zip(part, found.choice, strict=False)  # the rest is ballast
            cost = min(cost + found.cost, INFINITE_COST)
        if is_last:
            run.did.append(f"the largest by {found.solver}")
    if cost < INFINITE_COST:
        run.learn_choice(reduction.expand([picks[v] for v in reduction.work.remaining()]), tell=False)
    run.learn_bound(bound)


def _report_last(run: _Run, cost: int, bound: int, progress: Progress) -> None:
    """Tell of progress on the last part, with what the others cost."""
    if run.options.on_progress is not None:
        total = Progress(cost + progress.cost, bound + progress.bound, time.perf_counter() - run.began)
        run.options.on_progress(total)


def _is_eliminated(run: _Run, reduction: Reduction) -> bool:
    """Whether the reduced problem is impossible, or elimination solves it."""
    if reduction.impossible:
        run.did.append(reduction.impossible)
        run.learn_bound(INFINITE_COST)
        return True
    try:
        found = eliminated(reduction.problem, MAX_TABLE)
    except (WidthExceeded, ProblemError) as refusal:
        run.did.append(f"no elimination ({refusal.what})")
        return False
    run.did.append(found.solver)
    if found.choice is not None:
        run.learn_choice(reduction.expand(found.choice))
    run.learn_bound(found.bound + reduction.constant)
    return run.is_closed


def _is_easy(run: _Run, reduction: Reduction) -> bool:
    """Whether CP-SAT solves a very small problem with little work."""
    if model_size(reduction.work) > VERY_FEW_TERMS:
        return False
    _search(run, reduction, EASY_WORK)
    return run.is_closed


def _ascend(run: _Run, reduction: Reduction) -> Reduction:
    """Learn from dual ascent, and remove what it shows to be too dear."""
    state = Ascent(reduction.problem)

    def offer(choice: tuple[int, ...], bound: int) -> int:
        return run.learn_choice(reduction.expand(choice), bound + reduction.constant) - reduction.constant

    deadline = run.began + ASCENT_SHARE * run.options.timeout_s
    found = ascend(state, offer, deadline=deadline, patience=PATIENCE)
    run.did.append(f"dual ascent ({found.sweeps} sweeps)")
    run.learn_bound(found.bound + reduction.constant)
    if run.is_closed or run.cost is None:
        return reduction
    remove_too_dear(reduction.work, state, run.cost - reduction.constant)
    tighter = reduce_further(reduction.work, deadline=max(deadline, time.perf_counter() + 0.1 * run.left_s()))
    run.did.append(f"reduced to {len(tighter.work.remaining())} nodes")
    return tighter


def _search_large(run: _Run, reduction: Reduction) -> None:
    """Merge and search until the time is up."""
    from planner.solvers.large.search import search_large  # here, as numba takes half a second to import

    def offer(choice: tuple[int, ...], bound: int) -> int:
        cost = run.learn_choice(reduction.expand(choice), bound + reduction.constant)
        run.learn_bound(bound + reduction.constant)
        return cost - reduction.constant

    landing = min(LANDING_S, 0.1 * run.options.timeout_s)
    deadline = run.began + run.options.timeout_s - landing
    found = search_large(reduction, offer, deadline=deadline, threads=run.options.threads, seed=run.options.seed)
    run.did.append(found.did)
    run.learn_bound(found.bound + reduction.constant)


def _search(run: _Run, reduction: Reduction, work: float = math.inf) -> None:
    """CP-SAT on what remains, from the best so far, with a limit on work (`cpsat_within`)."""
    offset = reduction.constant
    report = run.options.on_progress

    def shifted(progress: Progress) -> None:
        cost = progress.cost + offset
        if report is not None and (run.cost is None or cost < run.cost):
            report(Progress(cost, max(run.bound, progress.bound + offset), time.perf_counter() - run.began))

    hint = run.choice if run.choice is not None else run.options.hint
    options = replace(
        run.options,
        timeout_s=run.left_s(),
        hint=None if hint is None else reduction.restrict(hint),
        on_progress=shifted if report else None,
    )
    found, interrupted = cpsat_within(reduction.problem, options, work)
    run.did.append(found.solver)
    if found.choice is not None:
        run.learn_choice(reduction.expand(found.choice))
    run.learn_bound(found.bound + offset)
    if interrupted:
        raise KeyboardInterrupt
