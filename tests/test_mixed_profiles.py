"""Profiles of several types: parts by name, by file or inline; what is wrong is named with the file and the part."""

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from planner.cli import main
from planner.cli.options import hardware
from planner.core.hardware import Cluster, Link
from planner.core.mixed import mixed
from planner.errors import MeshError, ProfileError
from planner.profiles import cluster, read_profile, write_profile
from planner.report.machine import listing, tables
from planner.report.tables import plain
from planner.sweeping.run import _clusters
from tests.costs.machines import DEVICE

BETWEEN = {"bandwidth_bytes_per_s": 3e9, "latency_s": 2e-5}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A plain profile of four devices."""
    sources = tuple((name, "made up") for name in ("device", "devices_per_node", "intra_node", "inter_node"))
    write_profile(Cluster("toy", DEVICE, 1, 4, Link(100.0, 0.5), Link(8.0, 2.0), adds_before_all_reduce=True,
                          sources=sources), tmp_path / "below" / "toy.json")
    return tmp_path / "below" / "toy.json"


@pytest.fixture
def good(tmp_path: Path, toy: Path) -> dict[str, Any]:
    """Three parts: a shipped profile, a file beside, a whole profile."""
    return {"name": "three", "description": "a test", "between": BETWEEN, "sources": {"between": "made up"}, "parts": [
        {"profile": "dgx-a100", "nodes": 2}, {"profile": "below/toy.json", "devices_per_node": 2},
        {"profile": json.loads(toy.read_text()) | {"name": "inline"}, "nodes": 3}]}


def written(data: object, folder: Path) -> Path:
    path = folder / "three.json"
    path.write_text(json.dumps(data))
    return path


def test_parts_are_names_files_or_whole_profiles(good: dict[str, Any], tmp_path: Path) -> None:
    found = cluster(str(written(good, tmp_path)))
    assert found.name == "three" and found.nodes == 6 and found.device_count == 2 * 8 + 2 + 3 * 4
    assert [(p.name, p.nodes, p.devices_per_node) for p in found.parts] == [
        ("dgx-a100", 2, 8), ("toy", 1, 2), ("inline", 3, 4)]
    assert found.parts[0] == cluster("dgx-a100", nodes=2)
    assert found.between == Link(3e9, 2e-5) and dict(found.sources) == {"between": "made up"}
    assert cluster(str(tmp_path / "three.json"), between=Link(1.0, 2.0)).between == Link(1.0, 2.0)


def test_what_is_written_is_read(good: dict[str, Any], tmp_path: Path) -> None:
    first = read_profile(written(good, tmp_path))
    write_profile(first, tmp_path / "again.json")
    again = read_profile(tmp_path / "again.json")
    assert again == first and again.sources == first.sources
    assert [p.sources for p in again.parts] == [p.sources for p in first.parts]
    named = cluster("dgx-a100:2+p3.16xlarge:1x4")
    write_profile(named, tmp_path / "named.json")
    assert read_profile(tmp_path / "named.json") == named


def test_without_a_link_it_is_the_slowest_of_the_parts(good: dict[str, Any], tmp_path: Path) -> None:
    del good["between"], good["sources"]
    assert read_profile(written(good, tmp_path)).between == Link(8.0, 2.0)


SPOILT: list[tuple[tuple[str | int, ...], object, str]] = [
    (("parts",), [], "0 parts"),
    (("parts",), {}, "parts is {}"),
    (("parts", 0, "profile"), "dgx-a10", r"parts[0]: unknown cluster 'dgx-a10'"),
    (("parts", 0, "profile"), "", r"parts[0].profile is ''"),
    (("parts", 0, "profile"), 3, r"parts[0].profile is 3"),
    (("parts", 0, "nodes"), 0, r"parts[0].nodes is 0"),
    (("parts", 0, "nodes"), 1.5, r"parts[0].nodes is 1.5"),
    (("parts", 0, "devices_per_node"), 9, r"parts[0]: 9 devices per node"),
    (("parts", 0, "size"), 9, r"unknown field parts[0].size"),
    (("parts", 1, "profile"), "absent.json", r"parts[1].profile: profile"),
    (("parts", 1, "profile"), "three.json", r"has parts itself"),
    (("parts", 1, "profile"), "cpu-8", r"parts: devices of 'cpu-8' share cores"),
    (("parts", 1, "profile"), "tpu-v5e", r"different compilers"),
    (("parts", 2, "profile", "devices_per_node"), 0, r"parts[2].profile.devices_per_node is 0"),
    (("parts", 2, "profile", "sources"), {"device": "made up"}, r"parts[2].profile.devices_per_node has no source"),
    (("parts", 2, "profile", "sources", "devise"), "x", r"parts[2].profile.sources.devise names no number"),
    (("parts", 2, "profile", "colour"), 1, r"unknown field parts[2].profile.colour"),
    (("between", "bandwidth_bytes_per_s"), 0, r"between.bandwidth_bytes_per_s is 0"),
    (("sources",), {}, r"between.bandwidth_bytes_per_s has no source"),
    (("nodes",), 3, r"unknown field nodes"),
]


@pytest.mark.parametrize(("where", "value", "named"), SPOILT)
def test_what_is_wrong_is_named(good: dict[str, Any], tmp_path: Path, where: tuple[str | int, ...], value: object,
                                named: str) -> None:
    spoilt: Any = copy.deepcopy(good)
    inner = spoilt
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(ProfileError) as error:
        cluster(str(written(spoilt, tmp_path)))
    assert named in error.value.what and "three.json" in error.value.what and error.value.mend


@pytest.mark.parametrize("more", [{"nodes": 2}, {"devices_per_node": 2}, {"levels": {"rack": (2, 1.0)}}])
def test_sizes_beside_the_parts_are_refused(good: dict[str, Any], tmp_path: Path, more: dict[str, Any]) -> None:
    path = written(good, tmp_path)
    with pytest.raises(MeshError, match="in the file"):
        cluster(str(path), **more)
    with pytest.raises(ProfileError, match="has parts itself"):
        cluster(f"{path}+dgx-h100")


def test_tables_show_the_parts_and_what_joins_them(good: dict[str, Any], tmp_path: Path) -> None:
    found = read_profile(written(good, tmp_path))
    text = "".join(plain(t, 120) for t in tables(found))
    assert "2 nodes × 8 A100-SXM4-80GB" in text and "3.00 GB/s" in text and "made up" in text
    assert text.count("memory bandwidth") == 3
    rows = plain(listing([found, cluster("dgx-h100")]), 160)
    assert "three: dgx-a100 × 2" in rows and "three: inline × 3" in rows and "dgx-h100" in rows


def test_sweeps_take_them_once_for_all_numbers_of_nodes(good: dict[str, Any], tmp_path: Path) -> None:
    path = str(written(good, tmp_path))
    found = _clusters([path, "dgx-h100"], [1, 2], {"toy": 3.0})
    assert [(c.name, c.nodes) for c in found] == [("three", 6), ("dgx-h100", 1), ("dgx-h100", 2)]
    assert found[0].parts[1].price_usd_per_device_hour == 3.0


def test_one_made_of_parts_is_written_with_its_default_link(tmp_path: Path) -> None:
    two = mixed([cluster("dgx-a100"), replace(cluster("dgx-h100"), nodes=2)], name="two")
    write_profile(two, tmp_path / "two.json")
    assert read_profile(tmp_path / "two.json") == two


def test_the_command_line_takes_them(good: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(good, tmp_path))
    assert main(["clusters", path]) == 0
    assert "link of a node between parts" in capsys.readouterr().out
    assert main(["clusters", path, "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in data["parts"]] == ["dgx-a100", "toy", "inline"]
    found = hardware(argparse.Namespace(hardware=path), jax.devices())
    assert found is not None and len(found.parts) == 3
    plain = hardware(argparse.Namespace(hardware="cpu-8"), jax.devices()[:4])
    assert plain is not None and plain.device_count == 4 and not plain.parts
