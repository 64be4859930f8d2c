"""Plans are the same byte for byte: without a cache, with an empty one, and from what another search kept."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planner
from planner.cache import written
from planner.cache.keys import digest
from planner.cache.store import SUFFIX, Cache
from planner.cache.tables import KnownTables
from planner.cache.written import Deferred, Task
from planner.core.graph import Program
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.mesh_tables import mesh_table
from planner.models import build
from planner.prepared import Prepared, prepare
from planner.spaces import MeshSpace, mesh_spaces
from planner.strategies import AxisUse
from planner.trace import trace_program

SMALL = {"batch_size": 4}


def cluster(**changed: Any) -> Cluster:
    return replace(planner.cluster("p3.16xlarge", nodes=2, devices_per_node=2), **changed)


def tight() -> Cluster:
    """Memory so small that it has a price."""
    found = cluster()
    return replace(found, device=replace(found.device, memory_bytes=3_000_000))


@pytest.mark.parametrize(("name", "where", "pins"), [
    ("gpt-tiny", cluster, {"microbatches": 2}), ("gpt-tiny", tight, {"microbatches": 4}),
    ("moe-tiny", cluster, {"microbatches": 2}), ("mlp-tiny", cluster, {"schedule": "1f1b"})])
def test_warm_plans_are_cold_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: Any,
                                   pins: dict[str, Any]) -> None:
    model = build(name, **SMALL)
    plain = planner.plan(model, where(), cache=False, **pins).to_json()
    assert planner.plan(model, where(), cache=Cache(tmp_path), **pins).to_json() == plain

    def refuse(*_: object) -> None:
        raise AssertionError("a table was solved that had been kept")

    monkeypatch.setattr(written, "mesh_table", refuse)
    assert planner.plan(model, where(), cache=Cache(tmp_path), **pins).to_json() == plain


@cache
def traced(microbatches: int) -> Program:
    return trace_program(build("gpt-tiny", **SMALL), microbatches)


def prepared(cluster: Cluster, microbatches: int = 2) -> Prepared:
    return prepare(traced(microbatches), cluster.device)


def spaces(cluster: Cluster) -> list[MeshSpace]:
    return [mesh for submesh in mesh_spaces(cluster, Pins()) for mesh in submesh.meshes]


@pytest.mark.parametrize("where", [cluster, tight])
def test_every_array_of_a_table_comes_back(tmp_path: Path, where: Any) -> None:
    ready, cache = prepared(where()), KnownTables(Cache(tmp_path), "1")
    for space in spaces(where()):
        plain = mesh_table(ready, space, where(), Pins())
        cache(ready, [space], where(), Pins())
        read, = cache(ready, [space], where(), Pins())
        assert isinstance(read.layers, Deferred)
        for found, made, name in ((read, plain, "bounds"), *(
                (read.useful, plain.useful, name) for name in ("start", "variant", "parts", "working_bytes"))):
            np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
            assert getattr(found, name).dtype == getattr(made, name).dtype
        assert (read.exact, read.multipliers, read.variants.pattern, read.least_forward_s,
                read.least_working_bytes) == (
            plain.exact, plain.multipliers, plain.variants.pattern, plain.least_forward_s, plain.least_working_bytes)
        for a, b in zip(read.entering_bytes, plain.entering_bytes, strict=True):
            np.testing.assert_array_equal(a, b)
        last = len(plain.layers) - 1
        for g in range(0, len(plain.variants), 7):
            assert read.path(0, last, g) == plain.path(0, last, g)
        for a, b in zip(read.layers, plain.layers, strict=True):
            np.testing.assert_array_equal(a.choices, b.choices)


def test_every_input_of_a_table_is_in_its_key() -> None:
    """Of what a mesh is told, and of the program: nothing is mistaken for something else."""
    base, ready = cluster(), prepared(cluster())
    one, two = spaces(base)[1:3]
    device, link = base.device, one.mesh.links[0]
    tasks = [Task(ready, one, base, Pins()), Task(ready, two, base, Pins()), Task(ready, one, tight(), Pins()),
             Task(prepared(base, 4), one, base, Pins()),
             Task(ready, one, base, Pins(recompute="all")),
             Task(ready, one, base, Pins(params=(("*", (None,)),))),
             Task(ready, one, replace(base, nodes=4), Pins()),
             Task(ready, one, replace(base, device=replace(device, launch_s=device.launch_s * 2)), Pins()),
             Task(ready, one, replace(base, device=replace(device, peak_flops_per_s=(("default", 1e12),))), Pins()),
             Task(ready, replace(one, mesh=replace(one.mesh, links=(replace(link, latency_s=1.0),))), base, Pins()),
             Task(ready, replace(one, uses=(AxisUse.BATCH,)), base, Pins())]
    known = KnownTables(Cache(Path("nowhere")), "1")
    keys = [digest(known._of_program(t.prepared), *t.rest()) for t in tasks]
    assert len(set(keys)) == len(keys)
    assert digest(known._of_program(ready), *tasks[0].rest()) == keys[0]
    assert KnownTables(Cache(Path("nowhere")), "2")._of_program(ready) != known._of_program(ready)


def test_a_cluster_that_lost_a_node_finds_the_tables_of_the_cluster_it_was(tmp_path: Path) -> None:
    """What surrounds a mesh is in its key only by what it does to the mesh: submeshes stay as they were."""
    was, ready = cluster(nodes=3), prepared(cluster())
    cache = Cache(tmp_path)
    for space in spaces(was):
        KnownTables(cache, "1")(ready, [space], was, Pins())
    files = {e.path for e in cache.entries()}
    for space in spaces(replace(was, nodes=2)):
        KnownTables(cache, "1")(ready, [space], was, Pins())
    assert {e.path for e in cache.entries()} == files


def test_a_file_that_is_no_table_is_made_again(tmp_path: Path) -> None:
    said: list[str] = []
    ready, space, cache = prepared(cluster()), spaces(cluster())[0], Cache(tmp_path, say=said.append)
    plain, = KnownTables(cache, "1")(ready, [space], cluster(), Pins())
    name = cache.entries()[0].path.name.removesuffix(SUFFIX)
    cache.put(*name.split("-"), b"a checksum that is right, of something else")
    again, = KnownTables(cache, "1")(ready, [space], cluster(), Pins())
    np.testing.assert_array_equal(again.bounds, plain.bounds)
    assert len(said) == 1


def test_a_plan_without_a_place_to_keep_tables_is_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("in the way")
    model = build("mlp-tiny", **SMALL)
    pins: dict[str, Any] = {"microbatches": 1, "schedule": "1f1b"}
    found = planner.plan(model, cluster(), cache=Cache(tmp_path / "file", say=said.append), **pins)
    assert found.to_json() == planner.plan(model, cluster(), cache=False, **pins).to_json()
    assert sum("can't be written" in text for text in said) == 1
    assert len(said) == len(set(said)) <= 2  # nor can it be read
