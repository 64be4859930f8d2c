"""Which compiled collectives belong to which foreseen ones, on hand-made stages."""

from dataclasses import replace

import pytest

from planner.core.plan import Collective
from planner.verify.collectives import CompiledCollective
from planner.verify.compiled import CompiledProgram
from planner.verify.hlo import Array
from planner.verify.matching import Matched, match
from planner.verify.report import ProgramRow
from tests.report.records import eight_devices

ALL = (tuple(range(4)),)


def compiled(kind: str, elements: int, *, times: int = 1, name: str = "", instruction: str = "i") -> CompiledCollective:
    size = 4 * elements
    return CompiledCollective(instruction, kind, Array("f32", (elements,)), size, size, ALL, times, False, name)


def matched(foreseen: list[Collective], made: list[CompiledCollective], *, scatters: bool = False) -> Matched:
    record = replace(eight_devices(), microbatches=3)
    stage = replace(record.stages[0], mesh_shape=(4,), mesh_axes=("x",), collectives=tuple(foreseen))
    program = CompiledProgram(0, ProgramRow("step", 1, 0, 0, 0, 0, 0, None, None, 0.0), 0, tuple(made))
    return match(record, stage, [program], scatters_as_reduces=scatters)


def reduce(size: int, *, count: int = 1, per: str = "batch", kind: str = "all-reduce", where: str = "dot"
           ) -> Collective:
    return Collective(kind, (0,), size * count, 0.1 * count, per, "backward", where, count)


def left(found: Matched) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    return [(m.bytes, m.times) for m in found.unforeseen], [(f.bytes, f.times) for f in found.absent]


def test_equal_tensors_match_as_often_as_they_run() -> None:
    assert left(matched([reduce(400, count=2, per="microbatch")], [compiled("all-reduce", 100, times=6)])) == ([], [])
    assert left(matched([reduce(400)], [compiled("all-reduce", 100, times=3)])) == ([(400, 2)], [])
    assert left(matched([reduce(400, per="microbatch")], [compiled("all-reduce", 100)])) == ([], [(400, 2)])


def test_another_kind_is_no_match() -> None:
    made = [compiled("all-reduce", 100)]
    assert left(matched([reduce(400, kind="all-gather")], made)) == ([(400, 1)], [(400, 1)])
    assert left(matched([reduce(400, kind="reduce-scatter")], made, scatters=True)) == ([], [])


def test_an_all_reduce_stands_for_a_reduce_scatter_of_the_same_bytes() -> None:
    """It stays unforeseen, for it takes longer, but what it stands for is not missing."""
    found = matched([reduce(400, count=2, kind="reduce-scatter")], [compiled("all-reduce", 100, times=3)])
    assert left(found) == ([(400, 2), (400, 1)], [])
    assert [m.instead_s for m in found.unforeseen] == [pytest.approx(0.1), None]
    other = matched([reduce(400, kind="reduce-scatter")], [compiled("all-reduce", 150)])
    assert left(other) == ([(600, 1)], [(400, 1)])
    assert left(matched([reduce(400)], [compiled("reduce-scatter", 100)])) == ([(400, 1)], [(400, 1)])


def test_an_all_reduce_leaves_nothing_to_gather() -> None:
    pair = [reduce(400, kind="reduce-scatter"), reduce(400, kind="all-gather")]
    found = matched(pair, [compiled("all-reduce", 100)])
    assert left(found) == ([(400, 1)], []) and found.unforeseen[0].instead_s == pytest.approx(0.2)


@pytest.mark.parametrize("shard", [200, 100])
def test_an_all_reduce_along_two_axes_stands_for_two_steps(shard: int) -> None:
    """A reduce-scatter along one axis, and an all-reduce of its shards along the other."""
    record = eight_devices()
    steps = (replace(reduce(400, kind="reduce-scatter"), axes=(1,)), replace(reduce(shard), axes=(0,)))
    stage = replace(record.stages[0], mesh_shape=(2, 2), mesh_axes=("x", "y"), collectives=steps)
    made = CompiledProgram(0, ProgramRow("step", 1, 0, 0, 0, 0, 0, None, None, 0.0), 0, (compiled("all-reduce", 100),))
    found = match(record, stage, [made], scatters_as_reduces=False)
    assert [m.instead_s for m in found.unforeseen] == ([pytest.approx(0.2)] if shard == 200 else [None])
    assert (found.absent == ()) == (shard == 200)


def test_the_gradient_that_is_missing_is_named() -> None:
    """Of equal tensors, those of one parameter belong together, over layers that repeat too."""
    found = matched([reduce(400, count=2, where="gradient of layers/0/up"), reduce(400, where="gradient of embedding")],
                    [compiled("all-reduce", 100, name=f"jit(f)/gradient[layers.{n}.up]/add") for n in range(2)])
    assert [f.where for f in found.absent] == ["gradient of embedding"]


@pytest.mark.parametrize(("elements", "matches"), [(105, True), (115, False)])
def test_nearly_equal_tensors_match(elements: int, matches: bool) -> None:
    assert (left(matched([reduce(400)], [compiled("all-reduce", elements)])) == ([], [])) == matches


def test_tensors_that_are_laid_together_are_found() -> None:
    foreseen = [reduce(4000), reduce(400, count=3), reduce(8)]
    assert left(matched(foreseen, [compiled("all-reduce", 1302)])) == ([], [])
    assert left(matched(foreseen, [compiled("all-reduce", 2000)]))[0] == [(8000, 1)]
