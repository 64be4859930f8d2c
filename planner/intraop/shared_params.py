"""Parameters that several operators of a stage read (tied weights): one decision on each, and one sum of its gradients.

Layers are priced apart, so each chooses for itself how such a parameter is stored, how its update is sharded and when
its gradient is combined, and each pays for the parameter and for combining what it contributes. A stage that runs holds
the parameter once. Contributions that wait for the end of the batch are added up on each device first, which is one
sum over devices for all of them, if they are made in one sharding and what they wait for is nested; others are combined
one by one. Here the choices that the layers made are tried for all of them, and the fastest that fits is taken.

Where no microbatches follow one another, waiting for the end means nothing else but to add up first. Sums that wait
are in float32, so that 16-bit gradients gain nothing by it, unless the compiler moves them as float32 anyway.

In: the `SliceChoice`s of all stages. Out: the same with shared parameters settled.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.core.graph import Phase
from planner.core.spec import Spec
from planner.costs.memory import itemsize, sum_itemsize
from planner.intraop.choices import Param
from planner.intraop.frontier import one_point
from planner.intraop.param_costs import ParamChoices
from planner.intraop.price import PricedLayer, Shared, with_shared
from planner.intraop.repeats import renamed
from planner.intraop.slice_choice import SliceChoice, Step
from planner.layers import Layers
from planner.program_index import ProgramIndex


@dataclass(frozen=True)
class StageShare:
    """A stage: what its layers chose, and how many microbatches it holds."""

    choice: SliceChoice
    in_flight: int


@dataclass(frozen=True)
class _Way:
    """One decision on a parameter."""

    stored: Spec
    update: Spec
    deferred: bool


@dataclass(frozen=True)
class _Use:
    """Parameter `item` of the layer of step `step`."""

    step: int
    item: int


@dataclass(frozen=True)
class _Contribution:
    """A gradient that the layer of a use makes: its sharding, and the mesh axes over which it is still to be summed."""

    use: _Use
    value: int
    made: Spec
    pending: frozenset[int]


def with_shared_params(index: ProgramIndex, layers: Layers, stages: Sequence[StageShare], limits_bytes: Sequence[float]
                       ) -> tuple[SliceChoice, ...]:
    """Settle every shared parameter on every stage, which has a limit of memory; when its gradient is combined is one
    decision for all stages."""
    made = [_Settling(index, layers, stage, limit) for stage, limit in zip(stages, limits_bytes, strict=True)]
    found = [s.settled({}) for s in made]
    flags: dict[int, list[bool]] = {}
    for s, choice in zip(made, found, strict=True):
        for value, deferred in s.deferred(choice).items():
            flags.setdefault(value, []).append(deferred)
    apart = [v for v, several in flags.items() if len(set(several)) > 1]
    if not apart:
        return tuple(found)
    wait = {v: all(s.may_wait(v) for s in made) for v in apart}
    return tuple(s.settled(wait) for s in made)


class _Settling:
    """A stage while its shared parameters are settled."""

    def __init__(self, index: ProgramIndex, layers: Layers, stage: StageShare, limit_bytes: float) -> None:
        self._index, self._stage, self._limit_bytes = index, stage, limit_bytes
        self._uses = _uses(index, layers, stage.choice)

    def deferred(self, choice: SliceChoice) -> dict[int, bool]:
        """Shared parameter -> whether its gradient waits."""
        return {value: self._way(choice, uses[0]).deferred for value, uses in self._uses.items()}

    def may_wait(self, value: int) -> bool:
        """Whether a gradient can wait for the end of the batch on this stage (True where it has no part in it)."""
        uses = self._uses.get(value, [])
        return all(bool(_layer(self._stage.choice, u).params[u.item].deferred.any()) for u in uses) \
            and _payer(self._contributions(self._stage.choice, uses)) is not None

    def settled(self, wait: Mapping[int, bool]) -> SliceChoice:
        """The stage's choice with every shared parameter settled. `wait`: parameters of which it is known whether their
        gradients wait."""
        choice = self._stage.choice
        for value, uses in self._uses.items():
            known = wait.get(value)
            if known is not None or len(uses) > 1 or len(self._contributions(choice, uses)) > 1:
                options = [self._with(choice, uses, way) for way in self._ways(choice, uses, known=known)]
                choice = min((o for o in options if o is not None), key=self._cost, default=choice)
        return choice

    def _cost(self, choice: SliceChoice) -> tuple[float, float]:
        """What does not fit, then seconds of a step."""
        beyond = choice.memory_bytes(self._stage.in_flight) - self._limit_bytes
        microbatches = self._index.program.microbatches
        return max(0.0, beyond), microbatches * choice.microbatch_s + choice.batch_s

    def _ways(self, choice: SliceChoice, uses: Sequence[_Use], *, known: bool | None) -> Iterable[_Way]:
        """What the layers chose, in their order, each with the gradient combined now and at the end."""
        chosen = [self._way(choice, use) for use in uses]
        waits = (False, True) if self._may_add_up(choice, uses) else (False,)
        options = [*chosen, *(replace(way, deferred=wait) for way in chosen for wait in waits)]
        return dict.fromkeys(way for way in options if known is None or way.deferred == known)

    def _may_add_up(self, choice: SliceChoice, uses: Sequence[_Use]) -> bool:
        """Whether gradients may wait: for other microbatches, or, in float32 anyway, for each other."""
        graph, gradients = self._index.program.micro, self._contributions(choice, uses)
        if self._index.program.microbatches > 1 or not gradients:
            return bool(gradients)
        item = sum_itemsize(graph.values[_param(choice, uses[0]).value].dtype)
        carried = _layer(choice, uses[0]).setting.mesh.carried
        return len(gradients) > 1 and all(carried(itemsize(graph.values[c.value].dtype)) == item for c in gradients)

    def _way(self, choice: SliceChoice, use: _Use) -> _Way:
        choices, param, pick = _layer(choice, use).params[use.item], _param(choice, use), _pick(choice, use)
        dims = param.classes.dims(param.value, len(self._index.program.micro.values[param.value].shape))
        return _Way(choices.stored.spec(pick, dims), choices.update.spec(pick, dims), bool(choices.deferred[pick]))

    def _contributions(self, choice: SliceChoice, uses: Sequence[_Use]) -> list[_Contribution]:
        graph = self._index.program.micro
        found: list[_Contribution] = []
        for use in uses:
            step, layer = choice.steps[use.step], _layer(choice, use)
            for link in layer.model.param_links if layer.setting.training else ():
                if link.item == use.item:
                    price = layer.prices[link.group]
                    row = int(step.frontier.choice(step.row, step.before, step.after)[link.group])
                    found += [_Contribution(use, v, price.strategies.spec(row, price.dims(v)),
                                            frozenset(price.pending_axes(v, row)))
                              for v, op in link.makes if graph.ops[op].phase is Phase.BACKWARD]
        return found

    def _with(self, choice: SliceChoice, uses: Sequence[_Use], way: _Way) -> SliceChoice | None:
        """The stage's choice with one decision for all uses; None if a layer can't take it."""
        gradients = self._contributions(choice, uses)
        holder = _payer(gradients) if way.deferred else next(iter(gradients), None)
        if way.deferred and holder is None:
            return None
        steps = list(choice.steps)
        for n, use in enumerate(uses):
            only = self._only(choice, use, way)
            if only is None:
                return None
            added = frozenset(c.value for c in gradients if c.use == use and c is not holder)
            shared = Shared(only, n > 0, added, added if way.deferred else frozenset())
            steps[use.step] = _repriced(self._index, steps[use.step], use.item, shared)
        return replace(choice, steps=tuple(steps))

    def _only(self, choice: SliceChoice, use: _Use, way: _Way) -> ParamChoices | None:
        """The choice of a layer that is that decision."""
        choices, param = _layer(choice, use).params[use.item], _param(choice, use)
        rank = len(self._index.program.micro.values[param.value].shape)
        stored, at = choices.stored_specs(param.classes, param.value, rank)
        update, uat = choices.update_specs(param.classes, param.value, rank)
        pick = next((k for k, (s, u) in enumerate(zip(at, uat, strict=True))
                     if (stored[s], update[u]) == (way.stored, way.update)), None)
        return None if pick is None else choices.only(pick, deferred=way.deferred)


def _uses(index: ProgramIndex, layers: Layers, choice: SliceChoice) -> dict[int, list[_Use]]:
    """Parameter that several operators read -> its uses on the stage, in order."""
    shared = index.shared
    found: dict[int, list[_Use]] = {}
    for n, step in enumerate(choice.steps):
        first, last = layers.ranges[step.layer]
        if any(first <= origin < last for origins in shared.values() for origin in origins):
            names = renamed(index, layers, step.layer)[0]
            for item, param in enumerate(step.frontier.layer.model.params):
                if names.get(param.value, param.value) in shared:
                    found.setdefault(names.get(param.value, param.value), []).append(_Use(n, item))
    return found


def _payer(gradients: Sequence[_Contribution]) -> _Contribution | None:
    """The contribution that waits for the sum over most axes, if all others can be added to it as they are."""
    most = max(gradients, key=lambda c: len(c.pending), default=None)
    fit = most is not None and all(c.made == most.made and c.pending <= most.pending for c in gradients)
    return most if fit else None


def _repriced(index: ProgramIndex, step: Step, item: int, shared: Shared) -> Step:
    """A step with one parameter priced as shared."""
    layer = with_shared(index, step.frontier.layer, item, shared)
    picks = step.frontier.choice(step.row, step.before, step.after).astype(np.int64)
    picks[layer.param_variable(item)] = 0
    point = one_point(index.program.micro, layer, picks, step.recompute)
    return replace(step, frontier=point, row=0, before=0, after=0)


def _layer(choice: SliceChoice, use: _Use) -> PricedLayer:
    return choice.steps[use.step].frontier.layer


def _param(choice: SliceChoice, use: _Use) -> Param:
    return _layer(choice, use).model.params[use.item]


def _pick(choice: SliceChoice, use: _Use) -> int:
    step = choice.steps[use.step]
    return int(step.frontier.choice(step.row, step.before, step.after)[_layer(choice, use).param_variable(use.item)])
