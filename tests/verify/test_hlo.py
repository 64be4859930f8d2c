"""Reading HLO: every form of groups, tuples, loops, asynchronous and fused collectives, and FLOPs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.verify.arithmetic import matrix_flops
from planner.verify.collectives import collectives
from planner.verify.groups import axes_of_groups, axes_of_pairs, replica_groups, source_target_pairs
from planner.verify.hlo import parse, parse_line

LOOP = """HloModule jit_f

%cond (p: (s32[], f32[4])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = f32[4]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%sum, metadata={op_name="jit(f)/while/body/dot"}
}

%outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %v = (s32[], f32[4]{0}) while(%x), condition=%cond, body=%body
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%x), condition=%cond2, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %b = (f32[2,4]{1,0}, /*index=1*/bf16[8]{0:T(8,128)(2,1)S(1)}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}, to_apply=%sum, metadata={op_name="jit(f)/(a/dot:b/add)"}
  %c = f32[3]{0} reduce-scatter(%x), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, dimensions={0}, to_apply=%sum
  %d = f32[3]{0} all-gather(%x), replica_groups=[8,1]<=[8], dimensions={0}
  %e = f32[6]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  %g = f32[2,2]{1,0} all-to-all(%x), replica_groups={}, dimensions={0}
}
"""  # noqa: E501


def test_loops_tuples_and_names() -> None:
    module = parse(LOOP)
    assert module.loops == {"body": 5, "outer": 3}
    found = [(c.kind, str(c.array), c.bytes, c.group, c.times, c.in_loop, c.op_name)
             for c in collectives(module, 8)]
    assert found == [
        ("all-reduce", "f32[4]", 16, 4, 15, True, "jit(f)/while/body/dot"),
        ("all-reduce", "f32[2,4]", 32, 2, 1, False, "jit(f)/a/dot"),
        ("all-reduce", "bf16[8]", 16, 2, 1, False, "jit(f)/b/add"),
        ("reduce-scatter", "f32[3]", 96, 8, 1, False, ""),
        ("collective-permute", "f32[6]", 24, 2, 1, False, ""),
        ("all-to-all", "f32[2,2]", 128, 8, 1, False, ""),
    ]


@pytest.mark.parametrize(("add", "trips"), [("add(%n, %two)", 3), ("add(%two, %n)", 3), ("subtract(%n, %two)", 5),
                                            ("add(%n, %n)", 5)])
def test_the_counter_of_an_unrolled_loop_counts_by_more_than_one(add: str, trips: int) -> None:
    module = parse(f"""
%cond (p: (f32[4], u32[])) -> pred[] {{
  %bound = u32[] constant(5)
  %at = u32[] get-tuple-element(%p), index=1
  ROOT %less = pred[] compare(%at, %bound), direction=LT
}}

%body (p: (f32[4], u32[])) -> (f32[4], u32[]) {{
  %two = u32[] constant(2)
  %n = u32[] get-tuple-element(%p), index=1
  %next = u32[] {add}
  ROOT %both = (f32[4], u32[]) tuple(%x, %next)
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %w = (f32[4], u32[]) while(%x), condition=%cond, body=%body
}}
""")
    assert module.loops == {"body": trips}


def entry(line: str, before: str = "") -> list[tuple[str, int, int]]:
    text = f"{before}\nENTRY %main (x: f32[4]) -> f32[4] {{\n  {line}\n}}\n"
    return [(c.kind, c.bytes, c.group) for c in collectives(parse(text), 8)]


@pytest.mark.parametrize(("line", "expected"), [
    ("%s = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}",
     [("all-gather", 256, 8)]),
    ("%s = ((f32[8]{0}, f32[2]{0}), (f32[64]{0}, f32[16]{0})) all-gather-start(%x, %y), replica_groups=[1,8]<=[8]",
     [("all-gather", 256, 8), ("all-gather", 64, 8)]),
    ("%s = f32[64]{0} all-reduce-start(%x), replica_groups=[1,8]<=[8], to_apply=%sum", [("all-reduce", 256, 8)]),
    ("%s = (f32[64]{0}, f32[2]{0}) all-reduce-start(%x, %y), replica_groups=[1,8]<=[8], to_apply=%sum",
     [("all-reduce", 256, 8), ("all-reduce", 8, 8)]),
    ("%s = ((bf16[512,128]{1,0}), bf16[256,128]{1,0}) reduce-scatter-start(%x), replica_groups=[4,2]<=[2,4]T(1,0)",
     [("reduce-scatter", 131072, 2)]),
    ("%s = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}",
     [("collective-permute", 24, 2)]),
    ("%s = (f32[2]{0}, f32[2]{0}) all-to-all(%x, %y), replica_groups={{0,1},{2,3}}", [("all-to-all", 32, 2)]),
    ("%s = f32[64]{0} all-gather-done(%x)", []),
])
def test_asynchronous_forms_count_the_result_once(line: str, expected: list[tuple[str, int, int]]) -> None:
    assert entry(line) == expected


def test_fused_all_reduce_and_slice_is_a_reduce_scatter_named_by_its_caller() -> None:
    text = """
%all-reduce-scatter (input: bf16[512,128]) -> bf16[256,128] {
  %all-reduce.2 = bf16[512,128]{1,0} all-reduce(%input), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %slice = bf16[256,128]{1,0} dynamic-slice(%all-reduce.2, %m, %c), dynamic_slice_sizes={256,128}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  ROOT %fusion = bf16[256,128]{1,0} fusion(%f), kind=kCustom, calls=%all-reduce-scatter, metadata={op_name="jit(f)/d"}
}
"""
    (found,) = collectives(parse(text), 8)
    assert (found.kind, found.bytes, found.group, found.op_name) == ("reduce-scatter", 131072, 2, "jit(f)/d")
    assert found.axes((2, 4)) == (0,)


def test_a_name_that_is_lost_is_that_of_what_is_read() -> None:
    text = """
ENTRY %main (x: f32[4]) -> f32[4] {
  %dot = f32[64]{0} dot(%a, %b), lhs_contracting_dims={0}, metadata={op_name="jit(f)/forward.3.dot_general"}
  %copy = f32[64]{0} bitcast(%dot)
  %s = ((f32[64]{0}), f32[8]{0}) reduce-scatter-start(%copy), replica_groups=[1,8]<=[8], metadata={scheduling_name="s"}
}
"""
    assert [c.op_name for c in collectives(parse(text), 8)] == ["jit(f)/forward.3.dot_general"]


@pytest.mark.parametrize(("text", "axes"), [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", (1,)),
    ("replica_groups=[2,4]<=[8]", (1,)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0,)),
    ("replica_groups=[1,8]<=[8]", (0, 1)),
    ("replica_groups={}", (0, 1)),
    ("replica_groups=mesh['x'=2,'y'=4] {'y'}", (1,)),
    ("replica_groups=mesh['x'=2,'y'=4] {'x'}", (0,)),
    ("replica_groups=mesh['x'=8] {'x':(1)2}", (0,)),
    ("replica_groups=mesh['x'=8] {'x':(2)4}", (1,)),
    ("replica_groups=mesh['x'=4,'y'=2], device_ids=([4,2]<=[2,4]T(1,0)) {'y'}", (0,)),
    ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}", (0,)),
    ("replica_groups=mesh['x'=2,'y'=4], device_ids=(0,4,1,5,2,6,3,7) {'x'}", None),
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", None),
])
def test_groups_are_told_as_axes(text: str, axes: tuple[int, ...] | None) -> None:
    assert axes_of_groups(replica_groups(text, 8), (2, 4)) == axes


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_groups_along_axes_are_found_again(shape: list[int], data: st.DataObject) -> None:
    names = [f"a{n}" for n in range(len(shape))]
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1))))
    inside = ",".join(f"{n}={s}" for n, s in zip(names, shape, strict=True))
    used = ",".join(names[a] for a in axes)
    text = f"mesh[{inside}] {{{used}}}"
    groups = replica_groups(f"replica_groups={text}", 1)
    assert sorted(n for g in groups for n in g) == list(range(len([n for g in groups for n in g])))
    assert axes_of_groups(groups, tuple(shape)) == tuple(a for a in axes if shape[a] > 1)


def test_pairs_are_told_as_axes() -> None:
    pairs = source_target_pairs("channel_id=1, source_target_pairs={{0,4},{4,0},{1,5}}")
    assert pairs == ((0, 4), (4, 0), (1, 5))
    assert axes_of_pairs(pairs, (2, 4)) == (0,)
    assert axes_of_pairs(((0, 5),), (2, 4)) == (0, 1)
    assert axes_of_pairs((), (2, 4)) == ()


def test_matrix_flops_count_loops() -> None:
    text = """
%body (p: f32[4]) -> f32[4] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  ROOT %dot = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %w = f32[8,4]{1,0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %i = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %k = f32[3,3,3,5]{3,2,1,0} parameter(1)
  %conv = f32[2,8,8,5]{3,2,1,0} convolution(%i, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %l = bf16[8,16]{1,0} parameter(0)
  %r = bf16[16,4]{1,0} parameter(1)
  %g = (bf16[8,4]{1,0}, s8[64]{0}) custom-call(%l, %r), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %tpu = bf16[8,4]{1,0} convolution(%l, %r), dim_labels=bf_io->bf
  %m = bf16[8,8,16]{1,0} parameter(0)
  %n = bf16[8,4,16]{1,0} parameter(1)
  %tpu8 = bf16[8,8,4]{2,1,0} convolution(%m, %n), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf
}
"""  # noqa: E501
    dot, conv = 2 * 8 * 4 * 16, 2 * (2 * 5) * 3 * (3 * 8 - 2) ** 2  # the border's windows fall on padding
    assert matrix_flops(parse(text)) == 3 * dot + conv + dot + dot + 8 * dot


def test_what_is_no_hlo_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("module @jit_f {}")
    with pytest.raises(ValueError, match="no HLO instruction"):
        parse_line("return %x")
