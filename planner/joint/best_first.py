"""Which rewrites make a step faster, found best-first, each candidate priced by the intra-operator search itself.

Unity's joint optimisation (OSDI 2022, sections 4 and 5): a state is a graph with the rewrites that led to it; the state
of least price (`price.py`: seconds, and as long as the model does not fit, bytes that are missing) is expanded by every
rule wherever it applies; a state that is worse than the best by more than a factor is not expanded, one whose
arithmetic alone takes as long is not priced, and where a rewrite gained nothing, only what it made possible is tried
next: what is independent of it is better off without. Large graphs fall apart at cuts of
low width: the layers. What is rewritten in one class of layers leaves the others as they are, so every class, and every
set of classes that a place lies across, is a region with a search of its own; the best of the regions are then put
together as long as they gain.

In: a `Reduced` program, a `Pricing`, rules. Out: `Found`.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from operator import itemgetter

from planner.core.fingerprint import graph_text
from planner.core.graph import Graph
from planner.core.rewriting import Rewriting
from planner.costs.memory import value_bytes
from planner.joint.price import Price
from planner.joint.pricing import Pricing, UnlikeError
from planner.joint.reduced import Reduced
from planner.layers import Layers
from planner.rewrites.table import RULES, Rule
from planner.rewriting.apply import steps as one_by_one
from planner.rewriting.sites import Site, sites
from planner.rewriting.splice import replaced
from planner.trace import ReverseRules, program_of

ALPHA = 1.05
"""States worse than the best of their region by more than this are not expanded. (TASO, SOSP 2019, section 5)"""

IDLE, NEAR = 1, 1.005
"""Steps in a row that do not gain, after which one still may, and how much worse than the best a state may be after
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


Key = tuple[str, frozenset[int]]
"""A rule, and the origins of the operators that it is applied to."""


@dataclass(frozen=True)
class State:
    """A graph, the steps that led to it, what it is worth.

    Attributes:
      tried: what was tried in the state before the last step, and whether it gained there.
      idle: how many of the last steps did not gain.
    """

    graph: Graph
    steps: tuple[Step, ...]
    price: Price
    tried: Mapping[Key, bool] = field(default_factory=dict[Key, bool])
    idle: int = 0

    def is_worth(self, rule: Rule, site: Site) -> bool:
        """Whether a rewrite is tried here: one that the last step made possible; one that gained before as well, or
        that touches what the last step made, if the last step gained."""
        origins = _origins(site)
        gained = self.tried.get((rule.name, origins))
        if gained is None:
            return True
        return not self.idle and (gained or not self.steps[-1].origins.isdisjoint(origins))


@dataclass(frozen=True)
class Gain:
    """A rewrite to apply: seconds of a step that it gains over those before it, if the model fits without; and bytes of
    a device's memory that are missing before and not after it."""

    rewriting: Rewriting
    seconds: float = 0.0
    frees_bytes: int = 0


@dataclass
class Found:
    """What a search found out: the price without rewrites, the rewrites to apply with what each gains, the price with
    all of them; how many candidates were priced, and how many left out by their bound; what was priced alone."""

    before: Price
    after: Price
    rewrites: tuple[Gain, ...] = ()
    priced: int = 0
    pruned: int = 0
    alone: list[tuple[Rewriting, Price]] = field(default_factory=list[tuple[Rewriting, Price]])
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
    _seen: dict[str, Price | None] = field(default_factory=dict[str, Price | None])  # by `graph_text`

    def run(self) -> Found:
        """The best rewrites found until the deadline, or until Ctrl-C."""
        forward = self.whole.program.forward
        before = self.pricing.price(self.whole.program, self.whole)
        self.found = Found(before, before)
        root = State(forward, (), before)
        self._seen[graph_text(forward)] = before
        best: dict[Region, State] = {}
        try:
            self._search(root, best)
        except KeyboardInterrupt:
            self.found.complete = False
            self.progress("interrupted: keeping the best rewrites so far")
        self._combine(root, sorted(best.values(), key=lambda s: s.price))
        return self.found

    def _search(self, root: State, best: dict[Region, State]) -> None:
        queue: list[tuple[Price, int, Region, State]] = []
        for region, nexts in self._by_region(root).items():
            best[region] = root
            self._expand(root, nexts, region, best, queue)
        while queue:
            price, _, region, state = heapq.heappop(queue)
            if state.idle <= IDLE and price.is_within(NEAR if state.idle else ALPHA, best[region].price):
                nexts = [(r, s) for r, s in self._sites(state) if self._region(s) <= region and state.is_worth(r, s)]
                self._expand(state, nexts, region, best, queue)

    def _expand(self, state: State, nexts: Sequence[tuple[Rule, Site]], region: Region, best: dict[Region, State],
                queue: list[tuple[Price, int, Region, State]]) -> None:
        """Price what rules make of a state, and queue it."""
        tried = dict(state.tried)
        for rule, site in nexts:
            if time.perf_counter() > self.deadline:
                self.found.complete = False
                return
            child = self._child(state, rule, site, tried)
            tried[rule.name, _origins(site)] = child is not None and child.price.gains_over(state.price)
            if child is None:
                continue
            if not state.steps:
                self.found.alone.append((site.rewriting, child.price))
            if child.price.gains_over(best[region].price):
                best[region] = child
                self.progress(f"rewrites: {site.rewriting}: {state.price} -> {child.price}")
            heapq.heappush(queue, (child.price, self.found.priced, region, child))

    def _child(self, state: State, rule: Rule, site: Site, tried: Mapping[Key, bool]) -> State | None:
        """The state after a rewrite; None where it was seen, or can't be of use."""
        graph = replaced(state.graph, rule, site.matches)
        text = graph_text(graph)
        if text in self._seen:
            return None
        before, count = self.found.before, self.whole.program.microbatches
        if before.fits and self.pricing.floor_s(graph, count) >= before.seconds:
            self._seen[text] = None
            self.found.pruned += 1
            return None
        price = self._price(graph, text)
        if price is None:
            return None
        idle = 0 if price.gains_over(state.price) else state.idle + 1
        return State(graph, (*state.steps, Step(rule, site.rewriting, _origins(site))), price, tried, idle)

    def _price(self, graph: Graph, text: str | None = None) -> Price | None:
        """What a graph is worth, its text where that is known; None where it can't be priced."""
        text, whole = text or graph_text(graph), self.whole.program
        if text not in self._seen:
            program = program_of(whole.kind, graph, whole.microbatches, whole.update, self._reverse)
            self.found.priced += 1
            try:
                self._seen[text] = self.pricing.price(program, self.whole)
            except UnlikeError:
                self.found.complete = False
                self._seen[text] = None
        return self._seen[text]

    def _combine(self, root: State, best: Sequence[State]) -> None:
        """Put the best of the regions together, those that gain most first, as long as they gain together."""
        state = root
        for candidate in best:
            if candidate.steps and (longer := self._with(state, candidate.steps)) is not None \
                    and longer.price.gains_over(state.price):
                state = longer
        state = self._spared(root, state)
        self.found.after = state.price
        self.found.rewrites = tuple(self._gains(root, [s.site for s in state.steps]))

    def _spared(self, root: State, state: State) -> State:
        """A state without the steps that it is as good without."""
        for step in reversed(state.steps):
            rest = self._with(root, [s for s in state.steps if s is not step]) if len(state.steps) > 1 else None
            if rest is not None and not state.price.gains_over(rest.price):
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
            taken.append(Step(step.rule, site.rewriting, step.origins))
        price = self._price(graph)
        return None if price is None else State(graph, tuple(taken), price)

    def _gains(self, root: State, rewritings: Iterable[Rewriting]) -> Iterator[Gain]:
        """What each rewrite gains over those before it."""
        before = root.price
        for _, site, graph in one_by_one(root.graph, rewritings):
            after = self._price(graph)
            if after is None:
                yield Gain(site.rewriting)
                continue
            seconds = before.seconds - after.seconds if before.fits and after.fits else 0.0
            yield Gain(site.rewriting, seconds, freed(before, after))
            before = after

    def _by_region(self, state: State) -> dict[Region, list[tuple[Rule, Site]]]:
        found: dict[Region, list[tuple[Rule, Site]]] = {}
        for rule, site in self._sites(state):
            found.setdefault(self._region(site), []).append((rule, site))
        return found

    def _sites(self, state: State) -> list[tuple[Rule, Site]]:
        """Where rules apply: first where each touches most bytes and has most to gain, then their second places."""
        found = [(rule, site) for rule in self.rules for site in sites(state.graph, rule)]
        found.sort(key=lambda each: -_touched_bytes(each[1]))
        ranks = {rule.name: itertools.count() for rule in self.rules}
        return [each for _, each in sorted(((next(ranks[each[0].name]), each) for each in found), key=itemgetter(0))]

    def _region(self, site: Site) -> Region:
        """Classes of the layers that the first place of a class lies across."""
        origins = {site.matches[0].graph.ops[n].origin for n in site.matches[0].ops.values()}
        return frozenset(self.layers.classes[self._layer(o)] for o in origins)

    def _layer(self, origin: int) -> int:
        return max(n for n, cut in enumerate(self.layers.cuts[:-1]) if cut <= origin)


def freed(before: Price, after: Price) -> int:
    """Bytes that are missing before and not after; 0 where that can't be said."""
    less = before.missing_bytes - after.missing_bytes
    return int(less) if isfinite(less) else 0


def _touched_bytes(site: Site) -> int:
    """Of what the operators of all places of a class read and make."""
    graph = site.matches[0].graph
    ops = [graph.ops[n] for match in site.matches for n in match.ops.values()]
    return sum(value_bytes(graph.values[v]) for op in ops for v in (*op.inputs, *op.results))


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
