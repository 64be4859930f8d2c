"""Hardware profiles as tables: one machine with the source of each number, a mixture of several, or many in a list."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.table import Table

from planner.core.hardware import Cluster, Device
from planner.report import units
from planner.report.tables import Column, table_of


def tables(cluster: Cluster) -> list[Table]:
    """Every number of a profile, with where it is from; of a mixture, a table of its parts before those of each."""
    return [table(cluster)] if not cluster.parts else [_parts(cluster), *(table(part) for part in cluster.parts)]


def _parts(cluster: Cluster) -> Table:
    """What a mixture is made of, and what joins it."""
    columns = [Column("", number=False), Column("value", number=False), Column("source", number=False, wrap=True)]
    rows = [(f"part {n}", f"{units.plural(p.nodes, 'node')} × {p.devices_per_node} {p.device.name}", p.name)
            for n, p in enumerate(cluster.parts)]
    if (link := cluster.between) is not None:
        where = dict(cluster.sources).get("between", "the slowest that a part has between its own nodes")
        rows += [("link of a node between parts", units.scaled(link.bandwidth_bytes_per_s, "B/s"), where),
                 ("latency between parts", units.seconds(link.latency_s), where)]
    return table_of(cluster.name, columns, rows)


def table(cluster: Cluster) -> Table:
    """Every number of a profile of equal devices, with where it is from."""
    columns = [Column("", number=False), Column("value"), Column("source", number=False, wrap=True)]
    d, sources = cluster.device, dict(cluster.sources)
    rows = [("device", d.name, ""), ("devices", f"{cluster.nodes} × {cluster.devices_per_node}", "")]
    rows += [(f"peak, {dtype}", units.rate(flops), _source(sources, "peak_flops_per_s", dtype))
             for dtype, flops in d.peak_flops_per_s]
    rows += [
        ("matmul efficiency", units.share(d.matmul_efficiency), _source(sources, "matmul_efficiency")),
        ("memory", units.size(d.memory_bytes), _source(sources, "memory_bytes")),
        ("memory bandwidth", units.scaled(d.memory_bandwidth_bytes_per_s, "B/s"), _source(sources, "memory_bandwidth")),
        ("a kernel's fixed cost", units.seconds(d.launch_s), _source(sources, "launch_s")),
    ]
    rows += _detail(d, sources)
    for name, link in (("intra_node", cluster.intra_node), ("inter_node", cluster.inter_node)):
        text = name.replace("_", "-").replace("-node", " node")
        rows += [(f"link {text}", units.scaled(link.bandwidth_bytes_per_s, "B/s"),
                  _source(sources, f"{name}.bandwidth")),
                 (f"latency {text}", units.seconds(link.latency_s), _source(sources, f"{name}.latency"))]
        if link.measured:
            groups = units.ranges({m.devices for m in link.measured})
            rows.append((f"collectives {text}", f"{len({m.kind for m in link.measured})} kinds, groups of {groups}",
                         _source(sources, f"{name}.measured")))
        if link.protocols:
            rows.append((f"protocols {text}", ", ".join(dict.fromkeys(p.name for p in link.protocols)),
                         _source(sources, f"{name}.protocols")))
    if cluster.price_usd_per_device_hour is not None:
        rows.append(("price of a device", f"{cluster.price_usd_per_device_hour:.2f} USD an hour",
                     _source(sources, "price_usd_per_device_hour")))
    rows += [(f"link of a {level.name} of {units.plural(level.nodes, 'node')}",
              units.scaled(level.link.bandwidth_bytes_per_s, "B/s"), _source(sources, "levels"))
             for level in cluster.levels]
    if (hides := cluster.overlap) is not None:
        parts = (("gradients", hides.gradient_sync), ("gathers", hides.parameter_gather),
                 ("hand-overs", hides.hand_over))
        rows += [(f"hidden {what}", units.share(part) if part else "none", _source(sources, "overlap"))
                 for what, part in parts]
    return table_of(cluster.name, columns, rows)


def _detail(d: Device, sources: dict[str, str]) -> list[tuple[str, str, str]]:
    """What only some profiles say of a device, briefly."""
    rows = [(f"matmuls, {grid.dtype}", f"{len(grid.flops_per_s)} shapes, {_between(grid.flops_per_s)}",
             _source(sources, "device.matmuls")) for grid in d.matmuls]
    if d.tiling is not None:
        rows.append(("matmul tiles", f"{len(d.tiling.shapes)} shapes on {units.plural(d.tiling.units, 'unit')}",
                     _source(sources, "device.tiling")))
    rows += [(f"cache, {level.name}", f"{units.size(level.capacity_bytes)} at "
              f"{units.scaled(level.bandwidth_bytes_per_s, 'B/s')}", _source(sources, "device.caches"))
             for level in d.caches]
    if d.exposed_traffic:
        rows.append(("operands' traffic not hidden", units.share(d.exposed_traffic),
                     _source(sources, "device.exposed_traffic")))
    if d.dispatch_s:
        rows.append(("a program's fixed cost", units.seconds(d.dispatch_s), _source(sources, "dispatch_s")))
    if d.result_s:
        rows.append(("each of its results", units.seconds(d.result_s), _source(sources, "result_s")))
    if d.transcendentals_per_s is not None:
        rows.append(("exp, log, ...", units.scaled(d.transcendentals_per_s, "elements/s"),
                     _source(sources, "transcendentals")))
    if d.convolutions is not None:
        rows += [(f"convolutions, {what}", f"{units.share(part)} of matmuls", _source(sources, "device.convolutions"))
                 for what, part in (("forward", d.convolutions.forward), ("input grad", d.convolutions.input_gradient),
                                    ("filter grad", d.convolutions.filter_gradient))]
    return rows


def _between(rates: tuple[float, ...]) -> str:
    """`"5.2 to 19 GFLOP/s"`: lowest and highest, the unit once where it is the same."""
    low, high = units.rate(min(rates)), units.rate(max(rates))
    same = low.split(" ")[1] == high.split(" ")[1]
    return f"{low.split(' ')[0] if same else low} to {high}"


def listing(clusters: Iterable[Cluster]) -> Table:
    """One row a profile (one node of each); of a mixture, one row a part."""
    columns = [Column("name", number=False), Column("a node", number=False, wrap=True), Column("memory"),
               Column("16-bit\npeak"), Column("link in\nnode"), Column("link of\nnode")]
    rows = [(c.name if c is cluster else f"{cluster.name}: {c.name} × {c.nodes}",
             f"{c.devices_per_node} × {c.device.name}", units.size(c.device.memory_bytes),
             units.rate(_sixteen_bit(c.device)),
             units.scaled(c.intra_node.bandwidth_bytes_per_s, "B/s"),
             units.scaled(c.inter_node.bandwidth_bytes_per_s, "B/s")) for cluster in clusters for c in cluster.kinds]
    return table_of("clusters", columns, rows)


def _sixteen_bit(device: Device) -> float:
    """The faster of bfloat16 and float16, in FLOP/s."""
    table = dict(device.peak_flops_per_s)
    return max(table.get(dtype, table["default"]) for dtype in ("bfloat16", "float16"))


def as_data(cluster: Cluster) -> dict[str, Any]:
    """The profile as plain data."""
    return asdict(cluster)


def _source(sources: dict[str, str], *words: str) -> str:
    """The source of the field whose path has these words, or of an object that holds it."""
    exact = (text for field, text in sources.items() if all(w in field for w in words))
    return next(exact, next((text for field, text in sources.items() if words[0].startswith(f"{field}.")), ""))
