"""Profiles: the shipped ones are whole and sourced, bad ones are refused with file, field and mend."""

import copy
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from planner.core.hardware import (
    RING,
    Cluster,
    CollectiveTime,
    Level,
    Link,
    MatmulGrid,
    MemoryLevel,
    Overlap,
    Protocol,
    Tiling,
    Torus,
)
from planner.errors import MeshError, ProfileError, UnknownNameError
from planner.profiles import cluster, profile_names, read_profile, write_profile
from tests.costs.machines import DEVICE

PER_NODE = {"cpu-8": 8, "dgx-a100": 8, "dgx-a100-40gb": 8, "dgx-h100": 8, "gb200-nvl72": 72, "hgx-h200": 8,
            "p3.16xlarge": 8, "tpu-v4": 4, "tpu-v5e": 8, "tpu-v5p": 4, "tpu-v6e": 8}

SHIPPED = tuple(PER_NODE)


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A valid file, and its content to spoil."""
    path = tmp_path / "toy.json"
    link = Link(100.0, 0.5, (CollectiveTime("all-reduce", 2, 0.1, 0.2),))
    sources = tuple((name, "made up") for name in ("device", "devices_per_node", "intra_node", "inter_node"))
    write_profile(Cluster("toy", DEVICE, 1, 4, link, Link(8.0, 2.0), sources=sources), path, "a toy")
    return path, json.loads(path.read_text())


def test_the_shipped_profiles() -> None:
    assert profile_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_plausible(name: str) -> None:
    machine = cluster(name, nodes=2)
    assert machine.name == name and machine.nodes == 2 and machine.devices_per_node == PER_NODE[name]
    assert machine.device_count == 2 * PER_NODE[name]
    assert all(len(where) > 10 for key, where in machine.sources if key != "devices_per_node")
    device = machine.device
    assert device.flops_per_s("bfloat16") > device.memory_bandwidth_bytes_per_s > 0
    # A node's link is shared: no device of it is faster outside than inside.
    assert machine.inter_node.bandwidth_bytes_per_s <= PER_NODE[name] * machine.intra_node.bandwidth_bytes_per_s
    rates = [level.bandwidth_bytes_per_s for level in device.caches]
    assert rates == sorted(rates, reverse=True) and min(rates, default=math.inf) > device.memory_bandwidth_bytes_per_s


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "cpu-8"])
def test_recorded_accelerators_say_how_they_cut_matmuls(name: str) -> None:
    tiling = cluster(name).device.tiling
    assert tiling is not None and max(share for _, _, share in tiling.shapes) == 1
    areas = [rows * columns for rows, columns, _ in tiling.shapes]
    assert areas == sorted(areas, reverse=True)  # large tiles reuse more: the smaller, the less of the peak
    assert [share for _, _, share in tiling.shapes] == sorted((s for _, _, s in tiling.shapes), reverse=True)


@pytest.mark.parametrize("name", ["dgx-a100", "dgx-a100-40gb", "dgx-h100", "gb200-nvl72", "hgx-h200"])
def test_nccl_protocols_trade_latency_for_bandwidth(name: str) -> None:
    machine = cluster(name)
    for link in (machine.intra_node, machine.inter_node):
        rings = [p for p in link.protocols if p.algorithm == RING]
        assert [p.name for p in rings] == ["LL", "LL128", "Simple"]
        assert [p.step_s for p in rings] == sorted(p.step_s for p in rings)
        assert [p.share for p in rings] == sorted(p.share for p in rings) and rings[-1].share == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_fitted_and_chosen_numbers_say_so(name: str) -> None:
    for key, where in cluster(name).sources:
        assert not re.search(r"guess|roughly|unknown|todo", where, re.IGNORECASE), f"{key}: {where}"
        if "not measured by us" in where:
            assert where.startswith("[fitted]"), f"{key}: {where}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_written_and_read_again(name: str, tmp_path: Path) -> None:
    write_profile(cluster(name), tmp_path / "again.json")
    assert read_profile(tmp_path / "again.json") == cluster(name)


def test_datasheet_figures() -> None:
    a100, v100 = cluster("dgx-a100"), cluster("p3.16xlarge")
    assert dict(a100.device.peak_flops_per_s)["bfloat16"] == 312e12 and a100.device.memory_bytes == 80 * 10**9
    assert v100.inter_node.bandwidth_bytes_per_s == 25e9 / 8 and v100.device.memory_bytes == 16 * 10**9
    gb200, v5e, v6e = cluster("gb200-nvl72"), cluster("tpu-v5e"), cluster("tpu-v6e")
    assert dict(gb200.device.peak_flops_per_s)["bfloat16"] * 72 == 180e15  # a rack's 360 PFLOP/s with sparsity, halved
    assert dict(v5e.device.peak_flops_per_s)["bfloat16"] == 197e12
    assert v6e.device.tiling == Tiling(2, ((256, 256, 1.0),), 256, 256)
    assert [cluster(n).device.tiling.units for n in ("p3.16xlarge", "dgx-a100", "dgx-h100", "hgx-h200")] == [
        80, 108, 132, 132]


def test_part_of_a_node() -> None:
    assert cluster("dgx-h100", devices_per_node=4).device_count == 4


def test_a_path_is_a_name_too(good: tuple[Path, dict[str, Any]]) -> None:
    assert cluster(str(good[0]), nodes=3).device_count == 12


def test_grids_tiles_caches_and_protocols_are_written_and_read(good: tuple[Path, dict[str, Any]],
                                                               tmp_path: Path) -> None:
    first = read_profile(good[0])
    device = dataclasses.replace(
        first.device, matmuls=(MatmulGrid("float32", (1,), (8, 64), (8,), (8, 16, 32), (1., 2., 3., 4., 5., 6.)),),
        tiling=Tiling(108, ((256, 128, 1.0), (64, 64, 0.5)), 32, 64), caches=(MemoryLevel("L2", 1 << 20, 1e12),))
    link = dataclasses.replace(first.inter_node, protocols=(Protocol("LL", RING, 6e-6, 1e-6, 0.5),))
    wanted = dataclasses.replace(first, device=device, inter_node=link)
    write_profile(wanted, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == wanted


@pytest.mark.parametrize(("field", "value"), [
    ("m", [64, 8]), ("m", [8, 8]), ("m", []), ("m", [0, 8]), ("m", [8.5]), ("flops_per_s", [1.0]),
    ("flops_per_s", [1.0, -2.0]), ("flops_per_s", [1.0, True]), ("flops_per_s", 3)])
def test_a_bad_grid_is_refused(good: tuple[Path, dict[str, Any]], field: str, value: object) -> None:
    path, data = good
    grid = {"dtype": "float32", "batch": [1], "m": [8, 64], "n": [8], "k": [8], "flops_per_s": [1.0, 2.0]}
    data["device"]["matmuls"] = [grid | {field: value}]
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match=field):
        read_profile(path)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_what_could_not_be_read_again_is_not_written(good: tuple[Path, dict[str, Any]], rate: float) -> None:
    first = read_profile(good[0])
    grid = MatmulGrid("float32", (1,), (8,), (8,), (8,), (rate,))
    before = good[0].read_text()
    with pytest.raises(ProfileError, match="flops_per_s"):
        write_profile(dataclasses.replace(first, device=dataclasses.replace(first.device, matmuls=(grid,))), good[0])
    with pytest.raises(ProfileError, match="has no source"):
        write_profile(dataclasses.replace(first, sources=()), good[0])
    assert good[0].read_text() == before


def test_what_is_written_is_read(good: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    first = read_profile(good[0])
    assert first.device == DEVICE and first.intra_node.measured[0].per_byte_s == 0.2
    path = tmp_path / "deep" / "er" / "again.json"
    write_profile(dataclasses.replace(first, reduce_scatter_as_all_reduce=True, adds_before_all_reduce=True), path)
    again = read_profile(path)
    assert again.reduce_scatter_as_all_reduce and again.adds_before_all_reduce and again.sources == first.sources
    assert [p.name for p in path.parent.iterdir()] == ["again.json"]  # no temporary file is left


@pytest.mark.parametrize(("nodes", "devices"), [(0, None), (-1, None), (1, 0), (1, 9)])
def test_clusters_without_devices_are_refused(nodes: int, devices: int | None) -> None:
    with pytest.raises(MeshError):
        cluster("dgx-a100", nodes=nodes, devices_per_node=devices)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="dgx-a100") as error:
        cluster("dgx-a10O")
    assert "dgx-a100" in error.value.near


SPOILT: list[tuple[tuple[str | int, ...], object, str]] = [
    (("device", "memory_bytes"), -1, "device.memory_bytes"),
    (("device", "memory_bytes"), 1.5, "device.memory_bytes"),
    (("device", "memory_bytes"), True, "device.memory_bytes"),
    (("device", "matmul_efficiency"), 1.2, "device.matmul_efficiency"),
    (("device", "matmul_efficiency"), 0, "device.matmul_efficiency"),
    (("device", "launch_s"), -1e-6, "device.launch_s"),
    (("device", "launch_s"), 10**400, "device.launch_s"),
    (("device", "transcendentals_per_s"), 0, "device.transcendentals_per_s"),
    (("device", "peak_flops_per_s", "bfloat16"), "fast", "device.peak_flops_per_s.bfloat16"),
    (("device", "peak_flops_per_s"), {"bfloat16": 1}, "device.peak_flops_per_s.default"),
    (("device",), [1], "device"),
    (("intra_node", "bandwidth_bytes_per_s"), 0, "intra_node.bandwidth_bytes_per_s"),
    (("intra_node", "bandwidth_bytes_per_s"), float("nan"), "intra_node.bandwidth_bytes_per_s"),
    (("inter_node", "bandwidth_bytes_per_s"), float("inf"), "inter_node.bandwidth_bytes_per_s"),
    (("inter_node", "latency_s"), None, "inter_node.latency_s"),
    (("intra_node", "measured", 0, "kind"), "all-redcue", "intra_node.measured[0].kind"),
    (("intra_node", "measured", 0, "per_byte_s"), -1, "intra_node.measured[0].per_byte_s"),
    (("intra_node", "measured"), {}, "intra_node.measured"),
    (("devices_per_node",), 0, "devices_per_node"),
    (("name",), "", "name"),
    (("reduce_scatter_as_all_reduce",), 1, "reduce_scatter_as_all_reduce"),
    (("adds_before_all_reduce",), "yes", "adds_before_all_reduce"),
    (("merges_all_reduces",), "yes", "merges_all_reduces"),
    (("device", "convolutions"), {"forward": 1, "input_gradient": 1, "filter_gradient": 1},
     "device.convolutions.full_width"),
    (("device", "convolutions"), {"forward": 2, "input_gradient": 1, "filter_gradient": 1, "full_width": 8},
     "device.convolutions.forward"),
    (("sources",), {"device": "made up"}, "devices_per_node has no source"),
    (("sources", "devise"), "made up", "sources.devise"),
    (("sources", "device"), "", "sources.device"),
    (("colour",), "green", "unknown field colour"),
    (("device", "color"), 1, "unknown field device.color"),
    (("intra_node", "measured", 0, "n"), 1, r"unknown field intra_node.measured[0].n"),
]


@pytest.mark.parametrize(("where", "value", "named"), SPOILT)
def test_an_impossible_field_is_named(good: tuple[Path, dict[str, Any]], where: tuple[str | int, ...], value: object,
                                      named: str) -> None:
    path, content = good
    spoilt = copy.deepcopy(content)
    inner: Any = spoilt
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    path.write_text(json.dumps(spoilt))
    with pytest.raises(ProfileError) as error:
        read_profile(path)
    assert named in error.value.what and str(path) in error.value.what and error.value.mend


@pytest.mark.parametrize("where", [("name",), ("device",), ("device", "memory_bytes"), ("inter_node", "latency_s"),
                                   ("devices_per_node",), ("sources",)])
def test_a_missing_field_is_named(good: tuple[Path, dict[str, Any]], where: tuple[str, ...]) -> None:
    path, content = good
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    del inner[where[-1]]
    path.write_text(json.dumps(content))
    with pytest.raises(ProfileError, match=f"{'.'.join(where)} is missing"):
        read_profile(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00"])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ProfileError, match=r"bad\.json"):
        read_profile(tmp_path / "bad.json")


def test_files_that_cannot_be_read_or_written(tmp_path: Path, good: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ProfileError, match="can't be read"):
        cluster(str(tmp_path / "absent.json"))
    with pytest.raises(ProfileError, match="can't be written"):
        write_profile(read_profile(good[0]), good[0] / "below-a-file.json")


def test_overlap_is_written_and_read(good: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, content = good
    found = read_profile(path)
    wanted = dataclasses.replace(found, overlap=Overlap(0.5, 0.0, 1.0), sources=(*found.sources, ("overlap", "a test")))
    write_profile(wanted, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == wanted
    assert read_profile(path).overlap is None
    content["overlap"] = {"gradient_sync": 1.5}
    path.write_text(json.dumps(content))
    with pytest.raises(ProfileError, match=r"overlap\.gradient_sync is 1\.5.*\n.*from 0 to 1"):
        read_profile(path)


def test_levels_are_written_and_read(good: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, data = good
    rack = {"name": "rack", "nodes": 4, "oversubscription": 2.0}
    pod = {"name": "pod", "nodes": 16, "link": {"bandwidth_bytes_per_s": 5.0, "latency_s": 3.0}}
    data["levels"], data["sources"]["levels"] = [rack, pod], "made up"
    path.write_text(json.dumps(data))
    found = read_profile(path)
    assert found.levels == (Level("rack", 4, Link(4 * 8.0 / 2, 2.0)), Level("pod", 16, Link(5.0, 3.0)))
    write_profile(found, tmp_path / "again.json")
    assert read_profile(tmp_path / "again.json") == found
    assert cluster(str(path), nodes=32, levels={"rack": (4, 2.0), "pod": (16, Link(5.0, 3.0))}) == \
        dataclasses.replace(found, nodes=32)


@pytest.mark.parametrize(("levels", "said"), [
    ([{"name": "rack", "nodes": 1, "oversubscription": 1}], r"levels\[0\].nodes is 1"),
    ([{"name": "a", "nodes": 4, "oversubscription": 1}, {"name": "b", "nodes": 6, "oversubscription": 1}],
     r"levels\[1\].nodes is 6\n.*multiple of the 4"),
    ([{"name": "rack", "nodes": 4}], "oversubscription is missing"),
    ([{"name": "rack", "nodes": 4, "oversubscription": 0}], "oversubscription is 0")])
def test_impossible_levels_are_named(good: tuple[Path, dict[str, Any]], levels: object, said: str) -> None:
    path, data = good
    data["levels"], data["sources"]["levels"] = levels, "made up"
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match=said):
        read_profile(path)


def test_impossible_levels_are_refused_as_arguments() -> None:
    for levels in ({"rack": (1, 1.0)}, {"rack": (4, 1.0), "pod": (6, 1.0)}, {"rack": (4, 0.0)}):
        with pytest.raises(MeshError, match="level"):
            cluster("dgx-a100", nodes=8, levels=levels)


def test_a_torus_is_checked_and_has_no_levels(good: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, data = good
    link = {"bandwidth_bytes_per_s": 5.0, "latency_s": 3.0}
    data["torus"], data["sources"]["torus"] = {"dimensions": 3, "link": link, "closes_at": 4}, "made up"
    path.write_text(json.dumps(data))
    found = read_profile(path)
    assert found.torus == Torus(3, Link(5.0, 3.0), 4, closes_together=False)
    write_profile(found, tmp_path / "again.json")
    assert read_profile(tmp_path / "again.json") == found
    with pytest.raises(MeshError, match="torus"):
        cluster(str(path), nodes=8, levels={"rack": (4, 1.0)})
    data["torus"]["dimensions"] = 4
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match=r"torus.dimensions is 4"):
        read_profile(path)
