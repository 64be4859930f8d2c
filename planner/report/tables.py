"""A plan as tables: what was planned, its stages, their time and memory, and the standard recipes beside it.

In: a `PlanRecord`. Out: rich renderables, or plain text of a given width (80 columns and up). Rows of neighbouring
stages that read the same are shown once (`0–7`).
"""

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.core.hardware import Cluster
from planner.core.plan import HOST, PlanRecord, StagePlan, uses_host_memory
from planner.costs.torus import slice_of
from planner.report import breakdown, units
from planner.report.kinds import by_kind

T = TypeVar("T")

BAR = 10
"""Columns of the bar that shows how full a device's memory is."""


@dataclass(frozen=True)
class Column:
    """A table column: its title, whether it holds numbers, and whether its text may be wrapped."""

    title: str
    number: bool = True
    wrap: bool = False


def render(record: PlanRecord, width: int = 100) -> str:
    """The whole report as plain text, no line longer than `width` columns."""
    return plain(report(record), width)


def plain(content: RenderableType, width: int) -> str:
    """Any rich renderable as plain text without trailing blanks."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, color_system=None, force_terminal=False, force_jupyter=False,
            legacy_windows=False, emoji=False, highlight=False, markup=False).print(content)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def report(record: PlanRecord) -> Group:
    """Header, stages, time, memory, baselines, and what else the user should know."""
    tables = [header(record), stages(record), times(record), memories(record)]
    if record.cluster.parts:
        tables.append(kinds(record))
    if record.baselines:
        tables.append(baselines(record))
    parts: list[RenderableType] = [part for table in tables for part in (table, Text())]
    parts += [Text(line, style="dim") for line in notes(record)]
    parts += [Text(f"warning: {line}", style="yellow") for line in record.warnings]
    return Group(*parts)


def header(record: PlanRecord) -> Table:
    """Model, cluster, batch, schedule, predicted step, rates and gap."""
    on, step = record.cluster, record.step_time_s
    peak = breakdown.peak(record)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("model", f"{record.model_name} ({record.kind}), {units.plural(len(record.layers), 'layer')}, "
                  f"{units.scaled(record.model_flops, 'FLOP')} a step"),
        ("cluster", f"{on.name}: {' + '.join(map(_nodes_text, on.kinds))}"),
        ("batch", f"{record.batch_size:,} as {units.plural(record.microbatches, 'microbatch')} of "
                  f"{record.batch_size // max(1, record.microbatches):,}"),
        ("pipeline", f"{units.plural(len(record.stages), 'stage')}"
                     + (f" of {len(record.replicas)} replicas" if record.replicas else "")
                     + (f", schedule {record.schedule}" if pipelined(record) else "")),
        ("step", f"{units.seconds(step)} predicted, {units.rate(breakdown.flops_per_device_s(record))} a device, "
                 f"{units.share(breakdown.mfu(record))} of the {peak.dtype} peak"),
        ("gap", f"{units.gap(record.gap)}: proven, no plan of those searched can take less than "
                f"{units.seconds(record.lower_bound_s)}"),
    ]
    if uses_host_memory(record):
        rows.append(("on hosts", host_text(record)))
    if record.replicas:
        rows.insert(3, ("replicas", _replicas_text(record)))
    if record.rewrites:
        rows.append(("rewritten", "; ".join(f"{r.rewriting} ({units.plural(r.places, 'place')})"
                                            for r in record.rewrites)))
    if record.pins:
        rows.append(("pinned", ", ".join(f"{name} = {value}" for name, value in record.pins)))
    for name, value in rows:
        table.add_row(name, value)
    return table


def pipelined(record: PlanRecord) -> bool:
    """Whether stages hand over to each other."""
    return any(len(r.stages) > 1 for r in record.replicas or (record,))


def _replicas_text(record: PlanRecord) -> str:
    """`"5 microbatches on 4 × A, 3 on 4 × B; gradients added up in 2 ms"`."""
    first = "microbatches on"
    each = [f"{r.microbatches} {first if n == 0 else 'on'} {r.device_count} × {r.cluster.device.name} "
            f"({units.plural(len(r.stages), 'stage')}, {units.seconds(r.step_time_s)})"
            for n, r in enumerate(record.replicas)]
    return f"{', '.join(each)}; gradients added up in {units.seconds(record.sync_s)}"


def _nodes_text(on: Cluster) -> str:
    """Equal nodes in words: `"2 nodes × 8 V100-SXM2-16GB, 16.0 GB each"`."""
    groups = "".join(f", in {level.name}s of {units.plural(level.nodes, 'node')}" for level in on.levels)
    torus = "" if on.torus is None else f" as a torus of {' × '.join(map(str, slice_of(on)))}"
    return f"{units.plural(on.nodes, 'node')} × {on.devices_per_node} {on.device.name}{torus}, " \
           f"{units.size(on.device.memory_bytes)} each{groups}"


def stages(record: PlanRecord) -> Table:
    """Layers, devices, logical mesh, shardings in words, recomputation, gap. Equal neighbours share a row."""
    columns = [Column("layers"), Column("devices"), Column("mesh", number=False, wrap=True),
               Column("shardings", number=False, wrap=True), Column("recompute", number=False, wrap=True),
               Column("gap")]
    rows = []
    on = record.cluster

    def alike(s: StagePlan) -> tuple[object, ...]:
        return (record.replica_of(s), s.layers[1] - s.layers[0], submesh_text(s, on), mesh_text(s), s.summary,
                _recompute_text(s))

    for run in _runs(record.stages, key=alike):
        first, each = run[0], " each" if len(run) > 1 else ""
        layers = units.ranges(n for s in run for n in range(*s.layers))
        if each:
            layers += f" ({first.layers[1] - first.layers[0]}{each})"
        devices = f"{units.ranges(d for s in run for d in s.devices)} ({submesh_text(first, on)}{each})"
        rows.append((_indices(run), layers, devices, mesh_text(first), first.summary or "replicated",
                     _recompute_text(first), units.gap(max(s.gap for s in run))))
    return table_of("stages", [Column("stage"), *columns], rows)


def times(record: PlanRecord) -> Table:
    """Parts of each stage's time per microbatch and per step, and how busy its devices are."""
    titles = ("compute", "collec-\ntives", "reshard", "send", "micro-\nbatch", "gradient\nsync", "update", "busy")
    parts = {s.index: (s.time.compute_s, s.time.collective_s, s.time.reshard_s, s.send_s,
                       breakdown.stage_microbatch_s(s), *breakdown.stage_busy_s(s, 1)[4:]) for s in record.stages}
    unit, scale = units.common_time(v for row in parts.values() for v in row)
    whole = record.step_time_s or 1.0
    rows = [(s, *(units.plain(v / scale) for v in parts[s.index]),
             units.share(sum(breakdown.stage_busy_s(s, record.microbatches_of(s))) / whole)) for s in record.stages]
    merged = [(_indices(s for s, *_ in run), *run[0][1:]) for run in _runs(rows, key=lambda row: row[1:])]
    return table_of(f"time on each device, {unit}", [Column("stage"), *map(Column, titles)], merged)


def memories(record: PlanRecord) -> Table:
    """Parts of each stage's peak memory on a device, and the sum against the capacity: that of all stages of the
    device."""
    capacity = [breakdown.kind_of_rank(record, r).device.memory_bytes for r in range(record.layout.ranks)]
    titles = ("params", "optim-\nizer", "grads", "acti-\nvations", "in\nflight", "working\nset", "peak")
    unit, scale = units.common_size(b for s in record.stages for b in breakdown.memory_parts(s))
    rows, layout, away = [], record.layout, uses_host_memory(record)
    for s in record.stages:
        parts = [units.plain(b / scale) for b in breakdown.memory_parts(s)]
        total = s.memory.total_bytes
        rank = layout.rank_of[s.index]
        host = (units.plain(s.memory.host_bytes / scale),) if away else ()
        flying = f"× {s.in_flight} + {s.waiting}" if s.waiting else f"× {s.in_flight}"
        rows.append((s, *parts[:4], flying, parts[4], units.plain(total / scale), *host,
                     bar(record.rank_bytes[rank] / capacity[rank])))
    merged = [(_indices(s for s, *_ in run), *run[0][1:]) for run in _runs(rows, key=lambda row: row[1:])]
    host_title, has = ("on the\nhost",) if away else (), " or ".join(map(units.size, dict.fromkeys(capacity)))
    columns = [*map(Column, ("stage", *titles, *host_title)), Column(f"of {has}", number=False)]
    return table_of(f"memory on each device, {unit}", columns, merged)


def kinds(record: PlanRecord) -> Table:
    """What each kind of device got, beside its share of the speed and what it has of memory."""
    columns = [Column("devices", number=False), Column("stages"), Column("layers"), Column("share of\nthe speed"),
               Column("share of\nthe work"), Column("fullest\ndevice"), Column("busy")]
    rows = [(got.name, units.ranges(got.stages) or "none", units.ranges(got.layers) or "none",
             units.share(got.speed), units.share(got.work),
             f"{units.size(got.peak_bytes)} of {units.size(got.memory_bytes)}", units.share(got.busy))
            for got in by_kind(record)]
    return table_of("kinds of devices", columns, rows)


def baselines(record: PlanRecord) -> Table:
    """The standard recipes, priced by the same cost code, as ratios to the answer."""
    columns = [Column("predicted step"), Column("÷ this plan"), Column("peak memory"),
               Column("", number=False, wrap=True)]
    peak = record.peak_bytes
    rows = [("this plan", units.seconds(record.step_time_s), "1.00", units.size(peak), "")]
    for b in record.baselines:
        step, ratio = "–", "–"
        if b.step_time_s is not None:
            step = units.seconds(b.step_time_s)
            ratio = f"{b.step_time_s / record.step_time_s:.2f}" if record.step_time_s else "–"
        note = b.note or ("" if b.fits else "does not fit in memory")
        rows.append((b.name, step, ratio, "–" if b.peak_bytes is None else units.size(b.peak_bytes), note))
    return table_of("beside standard recipes", [Column("recipe", number=False), *columns], rows)


def notes(record: PlanRecord) -> tuple[str, ...]:
    """Lines on what was pruned and how long planning took."""
    lines = []
    if record.pruned:
        lines.append("pruned: " + "; ".join(f"{why}: {count:,}" for why, count in record.pruned))
    if record.phases_s:
        whole = sum(spent for _, spent in record.phases_s)
        parts = ", ".join(f"{name} {units.seconds(spent)}" for name, spent in record.phases_s)
        lines.append(f"planned in {units.seconds(whole)}: {parts}")
    return tuple(lines)


def host_text(record: PlanRecord) -> str:
    """What lies in the hosts' memory, how much, and what moving it adds to a step."""
    away = sum(p.opt_memory == HOST for p in record.params)
    what = [f"optimizer state of {away} of {units.plural(len(record.params), 'parameter')}"] if away else []
    stages = [s.index for s in record.stages if s.offload]
    if stages:
        where = f" of stages {units.ranges(stages)}" if len(record.stages) > 1 else ""
        what.append(f"activations{where} between forward and backward")
    most = max(s.memory.host_bytes for s in record.stages)
    once = max(s.time.host_batch_s for s in record.stages)
    each = max(s.time.host_s for s in record.stages)
    adds = [f"{units.seconds(once)} a step"] if once else []
    adds += [f"{units.seconds(each)} a microbatch"] if each else []
    return f"{', '.join(what)}: up to {units.size(most)} for a device" + \
        (f"; moving adds {' and '.join(adds)}" if adds else "")


def mesh_text(stage: StagePlan) -> str:
    """A stage's logical mesh: `"data=4, model=2"`; one device is `"1 device"`."""
    axes = [f"{name}={size}" for name, size in zip(stage.mesh_axes, stage.mesh_shape, strict=True)]
    return ", ".join(axes) or "1 device"


def bar(fraction: float) -> str:
    """How full something is, as a bar and a percentage; over-full says so."""
    filled = min(BAR, round(BAR * fraction))
    return f"{'█' * filled}{'·' * (BAR - filled)} {100 * fraction:.0f} %" + (" TOO MUCH" if fraction > 1 else "")


def submesh_text(stage: StagePlan, on: Cluster) -> str:
    """A stage's devices as nodes × devices in each: `"1×4"`, and which they are where there are several kinds."""
    nodes = len({on.node_of(d) for d in stage.devices})
    name = f" {on.kind_of(stage.devices[0]).device.name}" if on.parts else ""
    return f"{nodes}×{len(stage.devices) // max(1, nodes)}{name}"


def table_of(title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Table:
    """A table in the style of all reports."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False,
                  pad_edge=False, padding=(0, 1), collapse_padding=True, expand=False)
    for c in columns:
        table.add_column(c.title, justify="right" if c.number else "left", no_wrap=not c.wrap, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _runs(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Neighbours of equal key."""
    return [list(run) for _, run in itertools.groupby(items, key)]


def _indices(run: Iterable[StagePlan]) -> str:
    return units.ranges(s.index for s in run)


def _recompute_text(stage: StagePlan) -> str:
    """Layers that run all of their forward again, or selected operators of it."""
    count = stage.layers[1] - stage.layers[0]
    if len(stage.recompute) == count:
        return "all"
    whole = [f"{len(stage.recompute)} of {count}"] if stage.recompute else []
    some = [f"selected in {len(stage.selected)} of {count}"] if stage.selected else []
    return "selected" if len(stage.selected) == count else ", ".join([*whole, *some]) or "no"
