"""The collectives of a compiled program, one entry an instruction: `planner.verify` reads them, arrays are added up."""

from dataclasses import dataclass
from itertools import groupby

from planner.verify import collectives as reader
from planner.verify.hlo import parse

DEVICES = 8


@dataclass(frozen=True)
class Found:
    """One instruction; `bytes` counts the whole tensor along the group, as `planner.costs.collectives` does."""

    kind: str
    bytes: int
    arrays: int
    group: int
    in_loop: bool
    source: str


def collectives(text: str) -> list[Found]:
    """All collectives of more than one device, in the order of the text."""
    found = []
    for _, group in groupby(reader.collectives(parse(text), DEVICES), key=lambda c: c.instruction):
        arrays = list(group)
        first = arrays[0]
        found.append(Found(first.kind, sum(c.bytes for c in arrays), len(arrays), first.group, first.in_loop,
                           first.op_name))
    return found
