"""Which rewrites make a step faster, found best-first, each candidate priced by the intra-operator search itself.

Unity's joint optimisation (OSDI 2022, sections 4 and 5): a state is a graph with the rewrites that led to it; the state
of least seconds is expanded by every rule wherever it applies; a state that is slower than the best by more than a
factor is not expanded, one whose arithmetic alone takes as long is not priced, and where a rewrite gained nothing, only
what it made possible is tried next: what is independent of it is better off without. Large graphs fall apart at cuts of
low width: the layers. What is rewritten in one class of layers leaves the others as they are, so every class, and every
set of classes that a place lies across, is a region with a search of its own; the best of the regions are then put
together as long as they gain.

In: a `Reduced` program, a `Pricing`, rules. Out: `Found`.
"""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from planner.core.fingerprint import graph_text
from planner.core.graph import Graph
from planner.core.rewriting import AppliedRewrite, Rewriting
from planner.joint.pricing import Pricing, UnlikeError
from planner.joint.reduced import Reduced
from planner.layers import Layers
from planner.rewrites.table import RULES, Rule
from planner.rewriting.apply import steps as one_by_one
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced
from planner.trace import ReverseRules, program_of

ALPHA = 1.05
"""States slower than the best of their region by more than this are not expanded. (TASO, SOSP 2019, section 5)"""

GAIN = 1e-4
"""Part of a step below which two states take equally long. [chosen: the model of costs is not as good as that]"""

IDLE, NEAR = 1, 1.005
"""Steps in a row that do not gain, after which one still may, and how much slower than the best a state may be after
one. [chosen: a rule that makes another possible]"""

EVERY = "*"
"""What stands for all rules, those included that assume something."""

Region = frozenset[int]
"""Classes of layers that a place lies across."""


@dataclass(frozen=True)
class Step:
    """A rewrite on the way to a state: the rule, the class of places and their operators' origins."""

    rule: Rule
    site: Rewriting
    origins: frozenset[int]
    places: int


Key = tuple[str, frozenset[int]]
"""A rule, and the origins of the operators that it is applied to."""


@dataclass(frozen=True)
class State:
    """A graph, the steps that led to it, seconds of a step of the model.

    Attributes:
      tried: what was tried in the state before the last step, and the seconds that each cost there.
      idle: how many of the last steps did not gain.
    """

    graph: Graph
    steps: tuple[Step, ...]
    seconds: float
    tried: Mapping[Key, float] = field(default_factory=dict[Key, float])
    idle: int = 0

    def is_worth(self, rule: Rule, site: Site) -> bool:
        """Whether a rewrite is tried here: one that the last step made possible; one that gained before as well, or
        that touches what the last step made, if the last step gained."""
        origins = _origins(site)
        cost = self.tried.get((rule.name, origins))
        if cost is None:
            return True
        return not self.idle and (cost < -GAIN * self.seconds or not self.steps[-1].origins.isdisjoint(origins))


@dataclass
class Found:
    """What a search found out: seconds without rewrites, the rewrites to apply with what each gains, seconds with all
    of them; how many candidates were priced, and how many left out by their bound; what was priced alone."""

    before_s: float
    rewrites: tuple[AppliedRewrite, ...] = ()
    after_s: float = float("inf")
    priced: int = 0
    pruned: int = 0
    alone: list[tuple[Rewriting, float]] = field(default_factory=list[tuple[Rewriting, float]])
    complete: bool = True


@dataclass
class Search:
    """A search under way. `deadline`: in the seconds of `time.perf_counter`."""

    whole: Reduced
    layers: Layers  # of the reduced program
    pricing: Pricing
    rules: Sequence[Rule]
    deadline: float
    progress: Callable[[str], None]
    found: Found = field(init=False)
    _reverse: ReverseRules = field(default_factory=ReverseRules)
    _seen: set[str] = field(default_factory=set[str])

    def run(self) -> Found:
        """The best rewrites found until the deadline, or until Ctrl-C."""
        forward = self.whole.program.forward
        before = self.pricing.seconds(self.whole.program, self.whole)
        self.found = Found(before, after_s=before)
        root = State(forward, (), before)
        self._seen.add(graph_text(forward))
        best: dict[Region, State] = {}
        try:
            self._search(root, best)
        except KeyboardInterrupt:
            self.found.complete = False
            self.progress("interrupted: keeping the best rewrites so far")
        self._combine(root, sorted(best.values(), key=lambda s: s.seconds))
        return self.found

    def _search(self, root: State, best: dict[Region, State]) -> None:
        queue: list[tuple[float, int, Region, State]] = []
        for region, nexts in self._by_region(root).items():
            best[region] = root
            self._expand(root, nexts, region, best, queue)
        while queue:
            seconds, _, region, state = heapq.heappop(queue)
            if state.idle <= IDLE and seconds <= (NEAR if state.idle else ALPHA) * best[region].seconds:
                nexts = [(r, s) for r, s in self._sites(state) if self._region(s) <= region and state.is_worth(r, s)]
                self._expand(state, nexts, region, best, queue)

    def _expand(self, state: State, nexts: Sequence[tuple[Rule, Site]], region: Region, best: dict[Region, State],
                queue: list[tuple[float, int, Region, State]]) -> None:
        """Price what rules make of a state, and queue it."""
        tried = dict(state.tried)
        for rule, site in nexts:
            if time.perf_counter() > self.deadline:
                self.found.complete = False
                return
            child = self._child(state, rule, site, tried)
            tried[rule.name, _origins(site)] = 0.0 if child is None else child.seconds - state.seconds
            if child is None:
                continue
            if not state.steps:
                self.found.alone.append((site.rewriting, child.seconds))
            if child.seconds < best[region].seconds * (1 - GAIN):
                best[region] = child
                self.progress(f"rewrites: {site.rewriting}: {state.seconds * 1e3:.4g} -> {child.seconds * 1e3:.4g} "
                              "ms/step")
            heapq.heappush(queue, (child.seconds, self.found.priced, region, child))

    def _child(self, state: State, rule: Rule, site: Site, tried: Mapping[Key, float]) -> State | None:
        """The state after a rewrite; None where it was seen, or can't be of use."""
        graph = replaced(state.graph, rule, site.matches)
        text = graph_text(graph)
        if text in self._seen:
            return None
        self._seen.add(text)
        count = self.whole.program.microbatches
        if self.pricing.floor_s(graph, count) >= self.found.before_s:
            self.found.pruned += 1
            return None
        seconds = self._seconds(graph)
        if seconds is None:
            return None
        step = Step(rule, site.rewriting, _origins(site), len(site.matches))
        idle = 0 if seconds < state.seconds * (1 - GAIN) else state.idle + 1
        return State(graph, (*state.steps, step), seconds, tried, idle)

    def _seconds(self, graph: Graph) -> float | None:
        whole = self.whole.program
        program = program_of(whole.kind, graph, whole.microbatches, whole.update, self._reverse)
        self.found.priced += 1
        try:
            return self.pricing.seconds(program, self.whole)
        except UnlikeError:
            self.found.complete = False
            return None

    def _combine(self, root: State, best: Sequence[State]) -> None:
        """Put the best of the regions together, those that gain most first, as long as they gain together."""
        state = root
        for candidate in best:
            if candidate.steps and (longer := self._with(state, candidate.steps)) is not None \
                    and longer.seconds < state.seconds * (1 - GAIN):
                state = longer
        state = self._spared(root, state)
        self.found.after_s = state.seconds
        self.found.rewrites = tuple(self._told(root, state.steps))

    def _spared(self, root: State, state: State) -> State:
        """A state without the steps that it is as fast without."""
        for step in reversed(state.steps):
            rest = self._with(root, [s for s in state.steps if s is not step]) if len(state.steps) > 1 else None
            if rest is not None and rest.seconds <= state.seconds * (1 + GAIN):
                return self._spared(root, rest)
        return state

    def _with(self, state: State, steps: Sequence[Step]) -> State | None:
        """A state after more steps, whose places may be called otherwise there; None if they are no longer there."""
        graph, taken = state.graph, list(state.steps)
        for step in steps:
            site = next((s for s in sites(graph, step.rule) if _origins(s) == step.origins), None)
            if site is None:
                return None
            graph = replaced(graph, step.rule, site.matches)
            taken.append(Step(step.rule, site.rewriting, step.origins, len(site.matches)))
        seconds = self._seconds(graph)
        return None if seconds is None else State(graph, tuple(taken), seconds)

    def _told(self, root: State, steps: Sequence[Step]) -> Iterator[AppliedRewrite]:
        """The steps with what each gains."""
        before = root.seconds
        for step, (_, _, graph) in zip(steps, one_by_one(root.graph, [s.site for s in steps]), strict=True):
            after = self._seconds(graph)
            gain = 0.0 if after is None else before - after
            before = before if after is None else after
            yield AppliedRewrite(step.site, step.rule.says, step.places, gain, step.rule.rounding, step.rule.assumes)

    def _by_region(self, state: State) -> dict[Region, list[tuple[Rule, Site]]]:
        found: dict[Region, list[tuple[Rule, Site]]] = {}
        for rule, site in self._sites(state):
            found.setdefault(self._region(site), []).append((rule, site))
        return found

    def _sites(self, state: State) -> Iterator[tuple[Rule, Site]]:
        for rule in self.rules:
            for site in sites(state.graph, rule):
                yield rule, site

    def _region(self, site: Site) -> Region:
        """Classes of the layers that the first place of a class lies across."""
        origins = {site.matches[0].graph.ops[n].origin for n in site.matches[0].ops.values()}
        return frozenset(self.layers.classes[self._layer(o)] for o in origins)

    def _layer(self, origin: int) -> int:
        return max(n for n, cut in enumerate(self.layers.cuts[:-1]) if cut <= origin)


def _origins(site: Site) -> frozenset[int]:
    return frozenset(m.graph.ops[n].origin for m in site.matches for n in m.ops.values())


def rules_named(allow: Sequence[str], forbid: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of those names without those that are forbidden; if none is named, those that assume nothing; all for
    `"*"`.

    Raises:
      UnknownNameError: there is no such rule.
    """
    for name in (*allow, *forbid):
        if name != EVERY:
            RULES[name]
    names = allow if allow and EVERY not in allow else tuple(RULES)
    return tuple(RULES[n] for n in names if n not in forbid and (allow or not RULES[n].assumes))
