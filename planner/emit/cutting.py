"""Which operators run together, what they read and what others read of them: liveness over a partition of a graph.

Used twice: for the forward and backward of pipeline stages, and for the rounds of a weight update that spans stages.
In: a graph, and a task per operator. Out: `TaskCode`s.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from planner.core.graph import Graph

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class TaskCode:
    """One function's worth of a graph.

    Attributes:
      stage: the stage it runs on.
      ops: operators, in order.
      reads: values it needs from outside (inputs, constants, results of other tasks).
      makes: results that another task or a graph output reads.
      part: of the weight update, where optimizer state comes from the host part by part (`LeafPlace.part`).
    """

    stage: int
    ops: tuple[int, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    part: int = 0


def cut(graph: Graph, task_of: Sequence[Name], stage_of: Mapping[Name, int]) -> dict[Name, TaskCode]:
    """Cut a graph into tasks.

    Args:
      graph: the graph.
      task_of: per operator, the name of its task.
      stage_of: task name -> stage; tasks without operators are included, empty.
    """
    ops: dict[Name, list[int]] = {name: [] for name in stage_of}
    maker: dict[int, Name] = {}
    for n, op in enumerate(graph.ops):
        ops[task_of[n]].append(n)
        maker.update(dict.fromkeys(op.results, task_of[n]))
    wanted = {o.operand for o in graph.outputs if isinstance(o.operand, int)}
    reads: dict[Name, set[int]] = {name: set() for name in stage_of}
    for n, op in enumerate(graph.ops):
        for v in op.inputs:
            if maker.get(v) != task_of[n]:
                reads[task_of[n]].add(v)
                wanted.add(v)
    return {name: TaskCode(stage_of[name], tuple(ops[name]), tuple(sorted(reads[name])),
                           tuple(v for n in ops[name] for v in graph.ops[n].results
                                 if v in wanted)) for name in stage_of}
