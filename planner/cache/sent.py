"""What a process needs to make slice tables, as bytes: a `Prepared` program without what executes it.

Graphs are sent as columns of plain data, since ten thousand operators one by one take longer to send than a table to
make. Static parameters go the way that they are kept on disk (`static.py`): the process that reads them has no JAX.

In: any values of this package that pricing reads. Out: bytes; from bytes of our own process, the same again.
"""

import io
import pickle  # noqa: TID251  between two of our own processes, by a pipe; nothing that is kept
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from planner.cache.static import coded, decoded
from planner.core.graph import Graph, Input, Literal, Op, Operand, Output, Phase, Program, Role, Value
from planner.prepared import Prepared
from planner.rules import RuleTable


def sent(value: object) -> bytes:
    """A value as bytes."""
    out = io.BytesIO()
    _Sender(out, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


def received(content: bytes) -> Any:
    """The value again. Never to be given bytes of anyone but `sent`."""
    return pickle.loads(content)  # noqa: S301  a pipe between a process and the one that started it


class _Sender(pickle.Pickler):
    """Plain data for what is not, or not quickly, pickled."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Graph):
            return _graph, _columns(obj)
        if isinstance(obj, Program):  # pricing reads the graph of a microbatch, and how many there are
            return Program, (obj.kind, obj.micro, obj.micro, None, obj.microbatches, obj.fingerprint, ())
        if isinstance(obj, RuleTable):
            return RuleTable, (obj.graph,)
        if isinstance(obj, Prepared):
            index = replace(obj.index)  # without what was found out about it since
            return Prepared, (index, obj.layers, obj.models, obj.crossing_bytes, obj.results, obj.micro_flops,
                              obj.dtype)
        if isinstance(obj, MappingProxyType):
            return MappingProxyType, (dict(cast("Mapping[Any, Any]", obj)),)
        return NotImplemented


def _columns(graph: Graph) -> tuple[Any, ...]:
    """The arguments of `_graph`."""
    ops = graph.ops
    params = {id(op.params): op.params for op in ops}
    place = {key: n for n, key in enumerate(params)}
    static = [{name: coded(value) for name, value in of.items()} for of in params.values()]
    return (
        [v.shape for v in graph.values], [v.dtype for v in graph.values],
        [op.primitive for op in ops], [_plain(op.operands) for op in ops], [op.results for op in ops], static,
        [place[id(op.params)] for op in ops], [op.bodies for op in ops], [op.phase.value for op in ops],
        [op.origin for op in ops], [(i.value, i.role.value, i.path, i.row) for i in graph.inputs],
        [(_plain((o.operand,)), o.role.value, o.path, o.row) for o in graph.outputs],
        [v for v, _ in graph.constants], graph.cotangent_of)


def _plain(operands: Sequence[Operand]) -> tuple[Any, ...]:
    return tuple(o if isinstance(o, int) else (cast(Any, np.asarray(o.value)).tolist(), o.shape, o.dtype)
                 for o in operands)


def _operands(plain: Sequence[Any]) -> tuple[Operand, ...]:
    return tuple(o if isinstance(o, int) else Literal(*o) for o in plain)


def _graph(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str],  # noqa: PLR0913  (a column each)
           primitives: Sequence[str], operands: Sequence[Sequence[Any]], results: Sequence[tuple[int, ...]],
           static: Sequence[dict[str, Any]], params: Sequence[int], bodies: Sequence[tuple[Graph, ...]],
           phases: Sequence[str], origins: Sequence[int], inputs: Sequence[tuple[int, str, str, int | None]],
           outputs: Sequence[tuple[Sequence[Any], str, str, int | None]], constants: Sequence[int],
           cotangent_of: tuple[tuple[int, int], ...]) -> Graph:
    """A graph from its columns; source lines and payloads stay behind."""
    known: list[MappingProxyType[str, Any]] = [
        MappingProxyType({name: decoded(value) for name, value in of.items()}) for of in static]
    named = {phase.value: phase for phase in Phase}
    ops = tuple(Op(primitive, _operands(read), made, fixed, inner, "", named[phase], origin)
                for primitive, read, made, fixed, inner, phase, origin
                in zip(primitives, operands, results, [known[n] for n in params], bodies, phases, origins, strict=True))
    return Graph(tuple(map(Value, shapes, dtypes)), ops, tuple(Input(v, Role(r), p, row) for v, r, p, row in inputs),
                 tuple(Output(_operands(o)[0], Role(r), p, row) for o, r, p, row in outputs),
                 tuple((v, None) for v in constants), cotangent_of)
