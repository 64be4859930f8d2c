"""Pictures: right content, nothing overlapping, equal bytes. Where text lies is asked of matplotlib, not estimated."""

import itertools

import matplotlib
import pytest
from matplotlib.text import Text

from planner.errors import PlannerError, UnknownNameError
from planner.report import plots, units
from planner.report.figures import devices, graph, shardings, style, timetable
from planner.simulate import Work, simulate
from tests.report.records import eight_devices, sixty_four_devices, two_devices, vee

RECORDS = (two_devices(), eight_devices(), sixty_four_devices(), vee())
BY_SIZE = pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.device_count} {r.schedule}")


def sheet(record, kind):
    with matplotlib.rc_context(dict(style.RC)):
        return plots._single(record, plots.pictures()[kind])


def texts(figure) -> list[Text]:
    figure.canvas.draw()
    unseen = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()
              for label in (tick.label1, tick.label2)
              if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())}
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and id(t) not in unseen]


@BY_SIZE
@pytest.mark.parametrize("kind", list(plots.pictures()))
def test_no_texts_overlap_or_leave_the_sheet(record, kind):
    with matplotlib.rc_context(dict(style.RC)):
        figure = sheet(record, kind)
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (a, one), (b, two) in itertools.combinations(boxes, 2):
        across = min(one.x1, two.x1) - max(one.x0, two.x0)
        down = min(one.y1, two.y1) - max(one.y0, two.y0)
        assert across <= 2 or down <= 2, f"{a!r} overlaps {b!r}"


@BY_SIZE
def test_every_stage_is_named_on_its_devices(record):
    found = " ".join(t.get_text() for t in texts(sheet(record, "devices")))
    for rank in range(record.layout.ranks):
        stages = record.layout.stages_of(rank)
        assert f"stage{'s' * (len(stages) > 1)} {units.ranges(stages)}\n" in found


def test_stages_of_a_rank_share_a_row_in_two_shades():
    record = vee()
    for kind in ("timetable", "memory", "memory-curve"):
        assert {"stages 0, 7", "stages 3, 4"} <= {t.get_text() for t in texts(sheet(record, kind))}
    first, *_, last = (i for i in simulate(record).intervals if i.work is Work.WEIGHT_GRADIENT and i.stage in (0, 7))
    shades = {i.stage: timetable.bar_colour(i, record.layout) for i in (first, last)}
    assert len(shades) == 2 and sum(shades[7]) > sum(shades[0])
    assert len({timetable.COLOURS[w] for w in (Work.FORWARD, Work.INPUT_GRADIENT, Work.WEIGHT_GRADIENT)}) == 3


def test_blocks_cover_each_device_once():
    found = devices.blocks((2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23), 8)
    assert found == [devices.Block(0, 1, 2, 4), devices.Block(1, 3, 0, 8)]


def test_a_long_step_is_cut_into_two_windows():
    short, long = eight_devices(), sixty_four_devices()
    assert len(timetable.windows(simulate(short), short)) == 1
    first, last = timetable.windows(simulate(long), long)
    assert first.start == 0 and last.end == pytest.approx(simulate(long).step_time_s)
    assert first.end < last.start and first.x + first.end < last.x


def test_graph_of_few_operators_shows_them_all():
    made, nodes = graph._graph(two_devices())
    assert len(nodes) == 20 and (0, 1) in made.edges


def test_graph_of_many_operators_shows_runs_of_equal_layers():
    made, nodes = graph._graph(sixty_four_devices())
    assert [n.stage for n in nodes] == [*range(16), 15]
    assert nodes[0].labels[0] == "block × 3\n4.95 TFLOP\nstage 0"
    assert set(made.edges) == {(n, n + 1) for n in range(16)}


def test_tiles_by_hand():
    # mesh data=2 × model=3, tensor cut by model along rows: device 3*d+m holds rows m
    assert shardings.tiles(((1,), ()), (2, 3)) == {(0, 0): [0, 3], (1, 0): [1, 4], (2, 0): [2, 5]}
    assert shardings.tiles(((1, 0),), (2, 2)) == {(0,): [0], (1,): [2], (2,): [1], (3,): [3]}
    assert shardings.tiles(((), ()), (2,)) == {(0, 0): [0, 1]}
    assert shardings.tiles(((),), ()) == {(0,): [0]}


def test_repeated_parameters_are_one_kind():
    kinds = shardings.kinds(eight_devices())
    assert [(k.name, k.count) for k in kinds] == [
        ("params/embed", 1), ("params/blocks/*/w_up", 12), ("params/blocks/*/wo", 12), ("params/blocks/*/wq", 12),
        ("params/blocks/*/bias", 12)]


def test_neighbouring_stages_differ_in_colour():
    colours = [style.stage_colour(n) for n in range(21)]
    assert len(set(colours)) == 21


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_equal_plans_make_equal_files(tmp_path, ending):
    for name in "ab":
        plots.plot(two_devices(), tmp_path / f"{name}.{ending}", "memory")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert len((tmp_path / f"a.{ending}").read_bytes()) > 1000


def test_overview(tmp_path):
    plots.plot(eight_devices(), tmp_path / "all.svg")
    text = (tmp_path / "all.svg").read_text()
    assert text.count('id="axes_') == len(plots.pictures()) - 1  # parallel operators are drawn by themselves


def test_bad_requests(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean memory"):
        plots.plot(two_devices(), tmp_path / "a.png", "memry")
    with pytest.raises(PlannerError, match=r"use one of \.png, \.svg, \.pdf"):
        plots.plot(two_devices(), tmp_path / "a.jpeg")
    with pytest.raises(PlannerError, match="cannot write"):
        plots.plot(two_devices(), tmp_path / "no" / "a.png", "memory")
    assert list(tmp_path.iterdir()) == []
