"""Layers that were solved once, for all programs that have them: a rewrite changes one or two of the distinct layers,
the others are what they were.

In: a `ProgramIndex` cut into layers. Out: a `SolvedLayer` per distinct layer, on a mesh, at prices of memory.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from planner.core.graph import Graph, Role
from planner.core.hardware import Device
from planner.core.spec import Spec
from planner.intraop.choices import LayerModel
from planner.intraop.setting import Setting
from planner.intraop.solved_layer import SolvedLayer, solve_layer
from planner.intraop.variants import Multipliers
from planner.layer_classes import described
from planner.layers import Layers
from planner.mesh_tables import PricedClass, priced_class
from planner.prepared import model_between
from planner.program_index import ProgramIndex

MOST_BYTES = 1_500_000_000
"""Of all that is kept. [chosen: a few hundred layers of a GPT, each on half a dozen meshes]"""

Where = Hashable
"""What tells one setting from others under which layers of a search are priced."""


@dataclass
class Layered:
    """A program and its layers."""

    index: ProgramIndex
    layers: Layers
    device: Device
    _models: dict[int, LayerModel] = field(default_factory=dict[int, LayerModel])

    def model(self, layer_class: int) -> LayerModel:
        """The structure of a distinct layer, made when it is asked for."""
        if layer_class not in self._models:
            self._models[layer_class] = model_between(self.index, self.layers.distinct[layer_class], self.device)
        return self._models[layer_class]


@dataclass
class _Known:
    """A layer priced in one setting, and what it was solved to, by the prices of memory."""

    priced: PricedClass
    graph: Graph
    solved: dict[Multipliers, SolvedLayer] = field(default_factory=dict[Multipliers, SolvedLayer])

    @property
    def held_bytes(self) -> int:
        """About what is kept of it."""
        return 2 * self.priced.priced.flat.values.nbytes + sum(s.eliminated.rows.nbytes for s in self.solved.values())


@dataclass
class KnownLayers:
    """Layers by what they are and under which setting they were solved, those that were asked for last the longest."""

    most_bytes: int = MOST_BYTES
    numbers: dict[Hashable, int] = field(default_factory=dict[Hashable, int])
    _known: OrderedDict[Hashable, _Known] = field(default_factory=OrderedDict[Hashable, _Known])
    _held_bytes: int = 0

    def __len__(self) -> int:
        """Layers that are kept, each in one setting."""
        return len(self._known)

    def solved(self, program: Layered, kinds: Sequence[Hashable], where: Where, setting: Setting, prices: Multipliers
               ) -> list[SolvedLayer]:
        """The distinct layers of a program, solved; `kinds` as `kinds` has them.

        Raises:
          WidthExceeded: one is too entangled.
        """
        return [self._solved(program, c, (kind, where), setting, prices) for c, kind in enumerate(kinds)]

    def kinds(self, program: Layered, pins: Sequence[dict[int, Spec]]) -> tuple[Hashable, ...]:
        """What each distinct layer is: equal for those that cost the same. `pins`: of each setting that is asked for,
        specs that are fixed."""
        return tuple((d.words, tuple(_of_value(program.index, v, pins) for v in d.values))
                     for d in described(program.index, program.layers.distinct, self.numbers))

    def _solved(self, program: Layered, layer_class: int, key: Hashable, setting: Setting, prices: Multipliers
                ) -> SolvedLayer:
        if key not in self._known:
            ends = program.layers.distinct[layer_class]
            priced = priced_class(program.index, program.model(layer_class), ends, setting)
            self._known[key] = _Known(priced, program.index.program.micro)
            self._held_bytes += self._known[key].held_bytes
        known = self._known[key]
        self._known.move_to_end(key)
        if prices not in known.solved:
            own, before = known.priced, known.held_bytes
            known.solved[prices] = solve_layer(known.graph, own.priced, own.before, own.after, prices)
            self._held_bytes += known.held_bytes - before
        while self._held_bytes > self.most_bytes and len(self._known) > 1:
            self._held_bytes -= self._known.popitem(last=False)[1].held_bytes
        return known.solved[prices]


def _of_value(index: ProgramIndex, value: int, pins: Sequence[dict[int, Spec]]) -> Hashable:
    """What the rest of its program makes of a value of a layer."""
    state_bytes = index.opt_state_bytes.get(index.names[value], 0) if index.role.get(value) is Role.PARAM else 0
    return (value in index.lasting, value in index.alive_at_peak, state_bytes, *(each.get(value) for each in pins))
