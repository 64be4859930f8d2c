"""A program made ready for pricing, once per microbatch count: indexed, in layers, each distinct layer structured.

In: a `Program`. Out: `Prepared`, and the cuts that carried state forbids.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from planner.core.backward_split import weight_part
from planner.core.graph import Program, Role
from planner.core.hardware import Device
from planner.intraop.choices import LayerModel
from planner.intraop.distinct import Slices, distinct_slices
from planner.intraop.selection import selection
from planner.intraop.structure import layer_model
from planner.layer_classes import classify
from planner.layers import Layers, cluster_layers, crossing_bytes, cut_positions
from planner.program_index import ProgramIndex, RuleTable, index_program, input_dimensions
from planner.rules import graph_flops, main_dtype
from planner.weight_part import WeightPart


@dataclass(frozen=True)
class Work:
    """What prices of memory go by: of a program, how much there is to compute for each microbatch, mostly in which
    dtype."""

    kind: str
    microbatches: int
    micro_flops: int
    dtype: str

    @classmethod
    def of(cls, program: Program) -> "Work":
        """Of a program."""
        return cls(program.kind, program.microbatches, graph_flops(program.micro), main_dtype(program.micro))


@dataclass(frozen=True)
class Prepared:
    """A program with its layers and the structure of each distinct layer."""

    index: ProgramIndex
    layers: Layers
    models: tuple[LayerModel, ...]  # per class
    crossing_bytes: tuple[float, ...]  # activations that enter each layer
    results: tuple[int, ...]  # arrays per layer that a stage's programs give back, a microbatch
    micro_flops: int
    dtype: str  # that most of them are computed in

    @property
    def program(self) -> Program:
        return self.index.program

    @property
    def work(self) -> Work:
        """What prices of memory go by."""
        return Work(self.program.kind, self.program.microbatches, self.micro_flops, self.dtype)

    @cached_property
    def slices(self) -> Slices:
        """Which slices of layers are alike."""
        return distinct_slices(self.layers.classes)

    @cached_property
    def weights(self) -> WeightPart:
        """What the parts of backwards take that only make gradients of parameters."""
        return WeightPart(weight_part(self.program.micro, self.layers.ranges))

    @cached_property
    def input_dims(self) -> Mapping[tuple[int, int], str]:
        """Dimensions of activations that come from a dimension of the batch inputs other than the batch -> its name."""
        graph = self.program.micro
        shapes = [graph.values[i.value].shape for i in graph.inputs_of(Role.BATCH)]
        rank = max(map(len, shapes), default=0)
        names = {1: "sequence"} if rank <= 3 else {1: "height", 2: "width"}
        return {key: names.get(d, f"input dimension {d}") for d in reversed(range(1, rank))
                for key in input_dimensions(graph, self.index.rules, d)}


def prepare(program: Program, device: Device | None = None) -> Prepared:
    """Index a program, cut it into layers, and build the structure of each distinct layer. For a device it is also
    found out what each keeps where selected tensors are recomputed; without one, nothing is selected."""
    index = index_program(program)
    return _prepared(index, cluster_layers(index), device)


def prepared_like(first: Prepared, second: Prepared, program: Program, device: Device) -> Prepared:
    """A program that has the operators of two others, which differ in the size of their microbatches alone
    (`scaled.py`), and is of another size: what both have alike, it has."""
    known, other = first.index, second.index
    if known.batch_dims != other.batch_dims or known.sums != other.sums or known.owner != other.owner:
        return prepare(program, device)
    index = replace(known, program=program, rules=RuleTable(program.micro))
    cuts = cut_positions(index)
    alike = first.layers == second.layers and first.layers.cuts == cuts
    return _prepared(index, first.layers if alike else Layers(cuts, classify(index, cuts)), device)


def _prepared(index: ProgramIndex, layers: Layers, device: Device | None) -> Prepared:
    program = index.program
    models = tuple(model_between(index, ends, device) for ends in layers.distinct)
    crossing = crossing_bytes(index)
    return Prepared(index, layers, models, tuple(float(crossing[c]) for c in layers.cuts), results(index, layers),
                    graph_flops(program.micro), main_dtype(program.micro))


def model_between(index: ProgramIndex, ends: tuple[int, int], device: Device | None) -> LayerModel:
    """The structure of the layer of forward operators [first, last); `device` as in `prepare`."""
    first, last = ends
    model = layer_model(index, first, last)
    if device is None or index.program.kind != "train":
        return model
    return replace(model, selection=selection(index, first, last, device))


def results(index: ProgramIndex, layers: Layers) -> tuple[int, ...]:
    """Per layer, what a pipeline's stage gives back under training: values for the backward, sums of gradients, the
    model's own outputs."""
    if index.program.kind != "train":
        return (0,) * len(layers)
    kept = {v: index.maker[v] for v in index.lasting.difference(index.owner, index.role) if v in index.maker}
    params = {v: index.first_reader[v] for v, role in index.role.items()
              if role is Role.PARAM and v in index.first_reader}
    origins = np.array([*kept.values(), *params.values()], dtype=np.int64)
    return tuple(np.histogram(origins, bins=np.array(layers.cuts))[0].tolist())


def forbidden_cuts(prepared: Prepared) -> frozenset[int]:
    """Layer boundaries that would put a reader of carried state in an earlier stage than the maker of its next
    value."""
    index, cuts = prepared.index, prepared.layers.cuts
    micro = index.program.micro
    inputs = {(i.path, i.row): i.value for i in micro.inputs_of(Role.STATE)}
    found: set[int] = set()
    for out in micro.outputs_of(Role.STATE):
        value = inputs.get((out.path, out.row))
        if value is None or not isinstance(out.operand, int) or out.operand not in index.maker:
            continue
        made, read = index.maker[out.operand], index.first_reader.get(value, len(micro.ops))
        found |= {n for n, cut in enumerate(cuts) if read < cut <= made}
    return frozenset(found)
