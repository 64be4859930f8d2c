"""Proposes rewrites: what is equal among all small terms, and follows neither from rules that are there nor from what
was found before.

Source: TASO (SOSP 2019, section 2): enumeration, fingerprints, pruning of what is renamed, shared or an instance.

In: operators, inputs, rules. Out: `Findings`, whatever was found when time was up or it was interrupted.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from planner.errors import RewriteError, UnknownNameError
from planner.rewrites.table import Rule
from planner.rewriting.generating.enumerating import Enumeration
from planner.rewriting.generating.laws import Laws
from planner.rewriting.generating.operators import OPERATORS
from planner.rewriting.generating.proposals import Proposal, directed, ordered
from planner.rewriting.generating.reach import implied_by
from planner.rewriting.generating.terms import INPUTS, Term, inputs_of, operators, renamed
from planner.rewriting.generating.truth import most_general, shapes_where_equal

ENUMERATION_SHARE = 0.5
"""Of the budget, at most. [chosen: looking at pairs takes longer than finding them]"""

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Settings:
    """What is enumerated.

    Attributes:
      most: operators of a side, at most.
      operators: their names; none: all.
      inputs: names of inputs.
      seed: of all that is drawn.
      budget_s: seconds after which no more is looked at; None: to the end.
    """

    most: int = 3
    operators: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("x", "y", "z", "u", "v", "s")
    seed: int = 0
    budget_s: float | None = None

    def check(self) -> None:
        """Refuse what can't be enumerated.

        Raises:
          UnknownNameError: there is no operator of a name.
          RewriteError: no operators to begin with, or no such inputs.
        """
        for name in self.operators:
            if name not in OPERATORS:
                raise UnknownNameError("operator", name, tuple(OPERATORS))
        for name in self.inputs:
            if name not in INPUTS:
                raise UnknownNameError("input", name, tuple(INPUTS))
        if self.most < 1 or not self.inputs:
            raise RewriteError(f"terms of {self.most} operators over {len(self.inputs)} inputs are none",
                               "give at least one operator and one input")
        if self.budget_s is not None and self.budget_s <= 0:
            raise RewriteError(f"a budget of {self.budget_s:g} s leaves nothing to do", "give seconds above zero")


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
      settings: for what.
      terms: how many were evaluated.
      pairs: of equal fingerprints, inputs renamed.
      looked_at: pairs that were judged, which are those below.
      untrue: pairs not equal for other shapes or inputs, or where a vector is repeated nobody says how often.
      idle: pairs that say no more than that an input does not matter.
      derived: pairs that follow from identities found before, or are instances of one.
      by_rules: identities that rules of the table imply: (left, right, names of the rules).
      proposals: the others, by promise.
      ended: `"complete"`, `"budget"` or `"interrupted"`.
    """

    settings: Settings
    terms: int
    pairs: int
    looked_at: int
    untrue: int
    idle: int
    derived: int
    by_rules: tuple[tuple[Term, Term, tuple[str, ...]], ...]
    proposals: tuple[Proposal, ...]
    ended: str


def generate(settings: Settings, rules: Iterable[Rule], tell: Tell = lambda text, share: None) -> Findings:
    """Enumerate, compare, prune.

    Args:
      settings: what is enumerated.
      rules: the present set.
      tell: is told what is going on, and the share that is done.

    Raises:
      UnknownNameError, RewriteError: see `Settings.check`.
    """
    settings.check()
    work = _Work(settings, tuple(rules), tell)
    ended = "complete"
    try:
        pairs = work.enumerated()
        ended = work.judged(pairs)
    except KeyboardInterrupt:
        ended = "interrupted"
    return work.findings(ended)


@dataclass
class _Work:
    """What is under way."""

    settings: Settings
    rules: Sequence[Rule]
    tell: Tell
    laws: Laws = field(default_factory=Laws)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("untrue", "idle", "derived"), 0))
    pairs: set[tuple[Term, Term]] = field(default_factory=set[tuple[Term, Term]])
    by_rules: list[tuple[Term, Term, tuple[str, ...]]] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list[Proposal])
    looked_at: int = 0
    whole: bool = True

    def __post_init__(self) -> None:
        chosen = [op for name, op in OPERATORS.items() if name in (self.settings.operators or OPERATORS)]
        self.start = time.monotonic()
        self.terms = Enumeration(chosen, self.settings.inputs, self.settings.seed)

    def _is_time(self, share: float = 1.0) -> bool:
        budget = self.settings.budget_s
        return budget is None or time.monotonic() - self.start < share * budget

    def enumerated(self) -> list[tuple[Term, Term]]:
        """Pairs, what is short and general first: what is long and special follows from it."""
        most = self.settings.most
        for count in range(1, most + 1):
            def going_on(share: float, count: int = count) -> bool:
                self.tell(f"terms of {count} operator{'s' * (count > 1)}, {len(self.pairs):,} pairs", 0.2 * share)
                self.whole = self.whole and self._is_time(ENUMERATION_SHARE)
                return self.whole

            for new, known in self.terms.level(count, last=count == most, tell=going_on):
                self.pairs.add(renamed(new, known))
            if not self.whole:
                break
        return sorted(self.pairs, key=_generality)

    def judged(self, pairs: Sequence[tuple[Term, Term]]) -> str:
        """Look at pairs in order; how it ended."""
        for n, (left, right) in enumerate(pairs):
            if not self._is_time():
                return "budget"
            self.tell(f"{len(self.proposals)} proposed, {n:,} of {len(pairs):,} pairs", 0.2 + 0.8 * n / len(pairs))
            self._judge(left, right)
            self.looked_at += 1
        return "complete" if self.whole else "budget"

    def _judge(self, left: Term, right: Term) -> None:
        if self.laws.normal(left) == self.laws.normal(right):
            self.counts["derived"] += 1
            return
        seed = self.settings.seed
        if shapes_where_equal(left, right, seed) is None:
            self.counts["untrue"] += 1
            return
        if self.laws.imply(left, right):
            self.counts["derived"] += 1
            return
        general = most_general(left, right, seed)
        shapes = shapes_where_equal(*general, seed)
        needs = set(inputs_of(general[0])), set(inputs_of(general[1]))
        if shapes is None or not (needs[0] <= needs[1] or needs[1] <= needs[0]):
            self.counts["idle"] += 1
        elif general != (left, right) and self.laws.imply(*general):
            self.counts["derived"] += 1
        else:
            names = implied_by(self.rules, *general, shapes)
            self.laws.learn(*general)
            if names is None:
                self.proposals.append(directed(*general, shapes))
            else:
                self.by_rules.append((*general, names))

    def findings(self, ended: str) -> Findings:
        """All of it."""
        return Findings(self.settings, self.terms.made, len(self.pairs), self.looked_at, self.counts["untrue"],
                        self.counts["idle"], self.counts["derived"], tuple(self.by_rules), ordered(self.proposals),
                        ended)


def _generality(pair: tuple[Term, Term]) -> tuple[int, int, int, int, tuple[Term, Term]]:
    inputs = inputs_of(*pair)
    ranks = sum(INPUTS[name] for name in inputs)
    return pair[0].length + pair[1].length, -len(inputs), -ranks, len(operators(*pair)), pair
