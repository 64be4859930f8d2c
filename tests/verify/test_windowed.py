"""Rings around a product, as libtpu 0.0.52 compiles them for eight v5e chips, with what plays no part struck out."""

import pytest

from planner.verify.collectives import CompiledCollective, collectives
from planner.verify.groups import cycles
from planner.verify.hlo import parse

ALONG = "source_target_pairs={{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}"
BACK = "source_target_pairs={{0,7},{1,0},{2,1},{3,2},{4,3},{5,4},{6,5},{7,6}}"

GATHER = f"""
%wide.windowed_dot_general_body_ag.sunk (p.2: (bf16[1,4096,8192], u32[])) -> (bf16[1,4096,8192], u32[]) {{
  %two = u32[] constant(2)
  %shard = bf16[1,4096,8192] get-tuple-element(%p.2), index=0
  %other = bf16[1,4096,8192] get-tuple-element(%p.2), index=1
  %at = u32[] get-tuple-element(%p.2), index=2
  %start = (bf16[1,4096,8192], bf16[1,4096,8192], u32[], u32[]) collective-permute-start(%shard), {BACK}
  %start.2 = (bf16[1,4096,8192], bf16[1,4096,8192], u32[], u32[]) collective-permute-start(%other), {ALONG}
  %done = bf16[1,4096,8192] collective-permute-done(%start)
  %start.1 = (bf16[1,4096,8192], bf16[1,4096,8192], u32[], u32[]) collective-permute-start(%done), {BACK}
  %done.2 = bf16[1,4096,8192] collective-permute-done(%start.2)
  %start.3 = (bf16[1,4096,8192], bf16[1,4096,8192], u32[], u32[]) collective-permute-start(%done.2), {ALONG}
  %done.1 = bf16[1,4096,8192] collective-permute-done(%start.1)
  %done.3 = bf16[1,4096,8192] collective-permute-done(%start.3)
  %next = u32[] add(%at, %two)
  ROOT %tuple = (bf16[1,4096,8192], bf16[1,4096,8192], u32[]) tuple(%done.1, %done.3, %next)
}}

%wide.windowed_dot_general_cond_ag (p: (bf16[1,4096,8192], u32[])) -> pred[] {{
  %constant.59 = u32[] constant(4)
  %at.1 = u32[] get-tuple-element(%p), index=2
  ROOT %compare.1 = pred[] compare(%at.1, %constant.59), direction=LT
}}

ENTRY %main.0_spmd (param.2: bf16[4096,8192], param.3: bf16[8192,1024]) -> bf16[32768,1024] {{
  %bitcast = bf16[1,4096,8192] bitcast(%param.2)
  %start.4 = (bf16[1,4096,8192], bf16[1,4096,8192], u32[], u32[]) collective-permute-start(%bitcast), {ALONG}
  %done.4 = bf16[1,4096,8192] collective-permute-done(%start.4)
  %sent = bf16[64] collective-permute(%param.3), {ALONG}
  %tuple.16 = (bf16[1,4096,8192], bf16[1,4096,8192], u32[]) tuple(%bitcast, %done.4, %copy.7)
  %while.1 = (bf16[1,4096,8192], bf16[1,4096,8192], u32[]) while(%tuple.16), condition=%wide.windowed_dot_general_cond_ag, body=%wide.windowed_dot_general_body_ag.sunk, metadata={{op_name="jit(f)/forward.3.dot_general"}}
  ROOT %result = bf16[1,4096,8192] get-tuple-element(%while.1), index=0
}}
"""  # noqa: E501

SCATTER = GATHER.replace("_ag", "_rs").replace("%start.4 =", "%done.9 =").replace("(%bitcast), ", "(%last), ") \
    .replace("%tuple(%bitcast, %done.4", "%tuple(%bitcast, %bitcast").replace(
    "  %bitcast = ", "  %last = bf16[1,4096,8192] get-tuple-element(%while.1), index=1\n  %bitcast = ")

SHARD = 2 * 4096 * 8192


def found(text: str) -> list[CompiledCollective]:
    return [c for c in collectives(parse(text), 8) if c.bytes > 1024]


@pytest.mark.parametrize(("text", "kind"), [(GATHER, "all-gather"), (SCATTER, "reduce-scatter")])
def test_a_ring_is_the_collective_that_it_stands_for(text: str, kind: str) -> None:
    (ring,) = found(text)
    assert (ring.kind, ring.bytes, ring.times, ring.group) == (kind, 8 * SHARD, 1, 8)
    assert ring.axes((8,)) == (0,) and ring.op_name == "jit(f)/forward.3.dot_general"
    assert ring.moved == 8 * SHARD * 9 // 7  # 2 turns of 4 sends, and the one beside the loop; a ring needs 7


def test_other_permutes_stay_permutes() -> None:
    assert [(c.kind, c.bytes) for c in collectives(parse(GATHER), 8) if c.bytes <= 1024] == [
        ("collective-permute", 128)]
    plain = GATHER.replace("windowed_dot_general", "mine")
    assert {c.kind for c in found(plain)} == {"collective-permute"}
    assert sum(c.times for c in found(plain)) == 9


def test_rings_of_pairs() -> None:
    assert cycles(((0, 1), (1, 0), (2, 3), (3, 2))) == ((0, 1), (2, 3))
    assert cycles(((0, 2), (2, 1), (1, 0), (3, 3))) == ((0, 2, 1), (3,))
    assert cycles(((0, 1), (1, 2))) == ((0, 1, 2),)
