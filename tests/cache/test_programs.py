"""A program that was kept has the fingerprint of the one that was traced, and is planned as that one is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from planner import profiles
from planner.cache.programs import for_microbatches, keep_programs, kept_programs
from planner.cache.store import SUFFIX, Cache
from planner.core import plan_io
from planner.core.graph import Program
from planner.core.pins import Pins
from planner.models import build
from planner.request import Request
from planner.trace import trace_program
from planner.would_fit import plan_or_say

TINY = ("gpt-tiny", "lstm-tiny", "mixtral-tiny", "t5-tiny", "unet-tiny", "wresnet-tiny")


@pytest.mark.parametrize("name", TINY)
def test_every_model_of_the_zoo_comes_back(tmp_path: Path, name: str) -> None:
    programs = [trace_program(build(name, batch_size=4), n) for n in (1, 2)]
    keep_programs(Cache(tmp_path), programs)
    found = kept_programs(Cache(tmp_path), programs[1].fingerprint)
    assert sorted(found) == [1, 2]
    for program in programs:
        read = found[program.microbatches]
        assert (read.kind, read.warnings, read.fingerprint) == (program.kind, program.warnings, program.fingerprint)
        for a, b in ((read.forward, program.forward), (read.micro, program.micro), (read.update, program.update)):
            assert a == b
        assert all(op.payload is None for op in read.micro.ops)


def planned(program: Program) -> str:
    cluster = replace(profiles.cluster("p3.16xlarge"), devices_per_node=2)
    request = Request(lambda n, u: program, "x", program.kind, 4, cluster, Pins(microbatches=program.microbatches), "1",
                      progress=lambda _: None)
    return plan_io.to_json(plan_or_say(request))


@pytest.mark.parametrize("name", ["gpt-tiny", "lstm-tiny", "wresnet-tiny"])
def test_plans_of_kept_programs_are_those_of_traced_ones(tmp_path: Path, name: str) -> None:
    program = trace_program(build(name, batch_size=4), 2)
    keep_programs(Cache(tmp_path), [program])
    assert planned(kept_programs(Cache(tmp_path), program.fingerprint)[2]) == planned(program)


def test_another_batch_has_the_fingerprint_of_its_own_trace(tmp_path: Path) -> None:
    """As many microbatches more of the same size: what a larger batch is traced to."""
    program = trace_program(build("gpt-tiny", batch_size=4), 2)
    keep_programs(Cache(tmp_path), [program])
    read = kept_programs(Cache(tmp_path), program.fingerprint)[2]
    assert for_microbatches(read, 4).fingerprint == trace_program(build("gpt-tiny", batch_size=8), 4).fingerprint


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: b"[]", lambda text: b"{}",
                                    lambda text: text.replace(b'"types"', b'"tapes"')])
def test_what_is_no_program_is_forgotten(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    said: list[str] = []
    program = trace_program(build("mlp-tiny", batch_size=4), 1)
    cache = Cache(tmp_path, say=said.append)
    keep_programs(cache, [program])
    (kind, key), = (e.path.name.removesuffix(SUFFIX).split("-") for e in cache.entries())
    cache.put(kind, key, damage(cache.get(kind, key) or b""))
    assert kept_programs(cache, program.fingerprint) == {}
    assert "no program" in said[0]
    assert not list(tmp_path.glob(f"*{SUFFIX}"))
