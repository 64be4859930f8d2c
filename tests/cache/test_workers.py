"""Tables made by other processes are the same; one that is lost, or interrupted, leaves nothing wrong behind."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import planner
from planner.cache.jobs import Jobs, Made
from planner.cache.sent import received, sent
from planner.cache.workers import Workers
from planner.cache.written import Task, read, written
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.errors import PlannerError
from planner.intraop.compose import SliceTable
from planner.models import build, names
from planner.prepared import Prepared, prepare
from planner.spaces import mesh_spaces
from planner.trace import trace_program

SMALL = {"batch_size": 4}


def cluster() -> Cluster:
    """Memory so small that it has a price."""
    found = planner.cluster("p3.16xlarge", nodes=2, devices_per_node=2)
    return replace(found, device=replace(found.device, memory_bytes=3_000_000))


@cache
def prepared(name: str = "gpt-tiny", microbatches: int = 2) -> Prepared:
    return prepare(trace_program(build(name, **SMALL), microbatches), cluster().device)


def tasks(ready: Prepared, pins: Pins | None = None) -> list[Task]:
    fixed = pins or Pins()
    spaces = [mesh for submesh in mesh_spaces(cluster(), fixed) for mesh in submesh.meshes]
    return [Task(ready, space, cluster(), fixed) for space in spaces]


def table(made: Made, task: Task) -> SliceTable:
    return read(made, task) if isinstance(made, bytes) else made


def same(some: list[Made], asked: list[Task]) -> None:
    """They are what each makes by itself."""
    alone = {id(task): task.table() for task in {id(task): task for task in asked}.values()}
    for made, task in zip(some, asked, strict=True):
        found, plain = table(made, task), alone[id(task)]
        np.testing.assert_array_equal(found.bounds, plain.bounds)
        for name in ("start", "variant", "parts", "working_bytes"):
            np.testing.assert_array_equal(getattr(found.useful, name), getattr(plain.useful, name))


@pytest.fixture
def two() -> Iterator[Workers]:
    with Workers(3) as found:
        found.expect(1, 1)
        yield found


@pytest.mark.parametrize("name", [n for n in names() if n.endswith("-tiny")])
def test_a_program_that_was_sent_gives_the_same_tables(name: str) -> None:
    ready = prepared(name)
    for task in tasks(ready)[1:3]:
        other = replace(task, prepared=received(sent(ready)))
        assert written(other.table()) == written(task.table())


def test_a_process_that_reads_a_program_needs_no_jax() -> None:
    code = "import sys; from planner.cache import worker; received = worker.received(sys.stdin.buffer.read());" \
           "print(len(received.layers), 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], input=sent(prepared()), capture_output=True, check=True)
    assert done.stdout.split() == [str(len(prepared().layers)).encode(), b"False"]


@pytest.mark.parametrize("pins", [Pins(), Pins(recompute="all", params=(("layers/*/mlp/down", (None, None)),))])
def test_tables_are_the_same_whoever_makes_them(two: Workers, pins: Pins) -> None:
    for microbatches in (2, 4):
        asked = tasks(prepared(microbatches=microbatches), pins)
        same(two.tables(asked), asked)


def test_plans_are_the_same_in_several_processes() -> None:
    model = build("gpt-tiny", **SMALL)
    some: dict[str, Any] = {"microbatches": 2, "cache": False}
    assert planner.plan(model, cluster(), jobs=2, **some).to_json() == \
        planner.plan(model, cluster(), jobs=1, **some).to_json()


def test_others_do_what_a_lost_process_had_to_do(two: Workers) -> None:
    said: list[str] = []
    two._say = said.append
    asked = tasks(prepared())
    two.tables(asked[:1])
    two._started[0].process.kill()
    same(two.tables(asked * 3), asked * 3)
    two.tables(tasks(prepared(microbatches=4)))
    assert len(two._started) == 1
    assert said == [f"a process that solved layers ended with {-signal.SIGKILL}: going on without it"]


def test_all_lost_leaves_all_to_this_process(two: Workers) -> None:
    asked = tasks(prepared())
    two.ahead(asked)
    for worker in two._started:
        worker.process.kill()
    same(two.tables(asked), asked)


def test_what_is_told_ahead_is_there_when_it_is_asked_for(two: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    now, later = tasks(prepared()), tasks(prepared(microbatches=4))
    two.ahead(later)
    same(two.tables(now), now)
    jobs = two._jobs.put_first(later)
    assert two._jobs.wait_for(jobs)  # without any help of ours
    monkeypatch.setattr(Task, "table", lambda _: pytest.fail("made a second time"))
    found = two.tables(later)
    monkeypatch.undo()
    same(found, later)
    assert not two._jobs._known


def test_an_error_in_another_process_is_told_by_this_one(two: Workers) -> None:
    asked = tasks(prepared())
    wrong = replace(asked[1], pins=Pins(params=(("nothing/like/that", (None,)),)))
    with pytest.raises(PlannerError, match="nothing/like/that"):
        two.tables([wrong] * 3)


def test_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(2) as some:
        some.expect(1, 1)
        process = some._started[0].process

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Jobs, "take_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            some.tables(tasks(prepared()))
        assert process.poll() is not None
    assert not some._started


def test_it_ends_with_the_process_that_started_it() -> None:
    code = textwrap.dedent("""
        from planner.cache.workers import Workers
        import os, signal
        workers = Workers(2)
        workers.expect(1, 1)
        print(workers._started[0].process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL  # both are gone: subprocess waits for all that hold its pipes
    assert int(done.stdout) > 0


def test_none_is_started_for_little_unless_it_is_asked_for() -> None:
    with Workers() as some:
        some.expect(100, 10)
        assert not some._started
    with pytest.raises(PlannerError, match="0 processes"):
        Workers(0)
