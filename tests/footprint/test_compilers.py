"""What compilers do differently, on a few nodes whose bytes are worked out by hand."""

import pytest

import planner
from planner.costs.liveness import Kernel, as_needed, places
from planner.footprint.compilers import OTHER, XLA_CPU, XLA_GPU, compiler_of, split_k
from planner.footprint.kernels import fuse
from planner.footprint.kinds import Kind
from planner.footprint.nodes import Nodes
from planner.footprint.products import is_read_as_is


@pytest.mark.parametrize(("profile", "compiler"), [
    ("cpu-8", XLA_CPU), ("dgx-h100", XLA_GPU), ("p3.16xlarge", XLA_GPU), ("tpu-v5e", OTHER)])
def test_a_cluster_tells_its_compiler(profile, compiler):
    assert compiler_of(planner.cluster(profile)) == compiler


def softmax():
    """Scores (heavy) -> exp -> sum over rows of 8 -> exp / sum, in 16 bits, read by a product."""
    nodes = Nodes()
    (scores,) = nodes.add(Kind.HEAVY, [nodes.given(128, 2)], [(128, 2)], 0)
    (raised,) = nodes.add(Kind.CHEAP, [scores], [(256, 4)], 1)  # as `exp` is where it isn't expensive
    (total,) = nodes.add(Kind.SUM, [raised], [(32, 4)], 2)
    (shares,) = nodes.add(Kind.CHEAP, [raised, total], [(128, 2)], 3)
    (read,) = nodes.add(Kind.HEAVY, [shares], [(128, 2)], 4)
    return nodes, scores, total, shares, read


def test_a_gpu_writes_scores_and_shares_of_a_softmax_but_no_exponentials():
    nodes, scores, total, shares, read = softmax()
    fused = fuse(nodes, [read], XLA_GPU)
    assert [(k.reads, k.writes) for k in fused.kernels[1:]] == [
        ((scores,), (total,)), ((scores, total), (shares,)), ((shares,), (read,))]


def test_elsewhere_the_exponentials_are_written():
    nodes, *_, read = softmax()
    written = [b for k in fuse(nodes, [read], OTHER).kernels for b in k.writes]
    assert [nodes.tensors[t].bytes for t in written] == [128, 256, 32, 128, 128]


def test_rows_that_a_kernel_reads_twice_are_not_written_over():
    """The sum over a row of 16 is in the kernel that reads it again; one over a row of 51,200 is a kernel before."""
    for row, over in ((16, False), (51_200, True)):
        nodes = Nodes()
        (x,) = nodes.add(Kind.HEAVY, [nodes.given(2 * row, 2)], [(2 * row, 2)], 0)
        (total,) = nodes.add(Kind.SUM, [x], [(4, 4)], 1)
        (y,) = nodes.add(Kind.CHEAP, [x, total], [(2 * row, 2)], 2)
        kernel = fuse(nodes, [y], XLA_GPU).kernels[-1]
        assert kernel.writes == (y,) and (x in kernel.over) == over


def test_what_two_large_tensors_make_is_written_once_for_several_readers():
    """A residual sum: each reader would read both again. Of one large tensor, each reader makes it anew."""
    for operands, written in ((2, True), (1, False)):
        nodes = Nodes()
        parts = [nodes.add(Kind.HEAVY, [nodes.given(64, 4)], [(64, 4)], n)[0] for n in range(operands)]
        (total,) = nodes.add(Kind.CHEAP, parts, [(64, 4)], 2)
        ends = [nodes.add(Kind.SUM, [total], [(4, 4)], n)[0] for n in (3, 4)]
        made = {b for k in fuse(nodes, ends, XLA_GPU).kernels for b in k.writes}
        assert (total in made) == written


def test_two_ways_from_one_tensor_are_one_tensor():
    """Logits' gradient: what was subtracted and what was picked both come of the logits; their sum needs no buffer."""
    nodes = Nodes()
    (logits,) = nodes.add(Kind.HEAVY, [nodes.given(64, 2)], [(64, 2)], 0)
    ways = [nodes.add(Kind.CHEAP, [logits], [(128, 4)], n)[0] for n in (1, 2)]
    (total,) = nodes.add(Kind.CHEAP, ways, [(128, 4)], 3)
    (rounded,) = nodes.add(Kind.CHEAP, [total], [(64, 2)], 4)
    ends = [nodes.add(Kind.HEAVY, [rounded], [(64, 2)], n)[0] for n in (5, 6)]
    fused = fuse(nodes, ends, XLA_GPU)
    assert [k.writes for k in fused.kernels] == [(logits,), (rounded,), *((e,) for e in ends)]
    assert fused.kernels[1].over == (logits,)


def test_a_view_of_what_is_written_is_no_second_buffer():
    nodes = Nodes()
    (x,) = nodes.add(Kind.HEAVY, [nodes.given(64, 2)], [(64, 2)], 0)
    (y,) = nodes.add(Kind.CHEAP, [x], [(64, 2)], 1)
    (view,) = nodes.add(Kind.VIEW, [y], [(64, 2)], 2)
    ends = [nodes.add(Kind.HEAVY, [t], [(64, 2)], n)[0] for n, t in ((3, y), (4, view))]
    fused = fuse(nodes, ends, XLA_GPU)
    assert fused.buffer[view] == y and [k.writes for k in fused.kernels] == [(x,), (y,), *((e,) for e in ends)]


def test_all_reduces_are_merged_up_to_so_many_bytes():
    """30 MiB and 7 bytes: of 20, 10 and 10 MiB, the first two go together."""
    nodes = Nodes()
    sizes = [20 * 2**20, 10 * 2**20, 10 * 2**20]
    sums = [nodes.add(Kind.ALL_REDUCE, [nodes.given(s, 4)], [(s, 4)], 0)[0] for s in sizes]
    assert [k.writes for k in fuse(nodes, sums, XLA_GPU).kernels] == [tuple(sums[:2]), (sums[2],)]
    assert [k.writes for k in fuse(nodes, sums, XLA_CPU).kernels] == [tuple(sums)]


def test_what_reads_of_a_merged_all_reduce_runs_after_it():
    """The kernel that reads the first result was written before the second all-reduce, with which the first is one."""
    a, b, read, new = range(4)
    kernels = [Kernel((a,), (read,)), Kernel((), (a, b)), Kernel((read, b), (new,))]
    assert as_needed(kernels) == (1, 0, 2)


def test_results_of_a_merged_product_live_as_long_as_any():
    """Queries are read once, keys to the end: both are parts of one buffer."""
    queries, keys, scores, end = range(4)
    kernels = [Kernel((), (queries,)), Kernel((), (keys,)), Kernel((queries,), (scores,)),
               Kernel((keys, scores), (end,))]
    sizes = dict.fromkeys(range(4), 8)
    apart, joined = (places(kernels, range(4), sizes, joined=parts) for parts in ((), [(queries, keys)]))
    assert [p.live.end for p in apart] == [3, 4, 4, 4] and [p.live.end for p in joined] == [4, 4, 4, 4]


def test_weight_gradients_are_made_last():
    """dy -> dw1, dx -> dw2, and an update of both: the products for weights wait for it, the gradient of x doesn't."""
    dy, dw1, dx, dw2, new = range(5)
    kernels = [Kernel((), (dy,)), Kernel((dy,), (dw1,), waits=True), Kernel((dy,), (dx,)),
               Kernel((dx,), (dw2,), waits=True), Kernel((dw1, dw2), (new,))]
    assert as_needed(kernels) == (0, 2, 1, 3, 4)


def test_partial_sums_are_all_made_before_they_are_added_up():
    kernels = [Kernel((9,), (0,), waits=True), Kernel((0,), (1,), waits=True),
               Kernel((9,), (2,), waits=True), Kernel((2,), (3,), waits=True), Kernel((1, 3), (4,))]
    assert as_needed(kernels) == (0, 2, 1, 3, 4)


def test_what_takes_less_than_it_frees_does_not_wait():
    kernels = [Kernel((), (0,)), Kernel((0,), (1,)), Kernel((), (2,)), Kernel((1, 2), (3,))]
    assert as_needed(kernels) == (0, 1, 2, 3)


@pytest.mark.parametrize(("rows", "columns", "depth", "parts"), [
    (256, 256, 512, 8), (512, 256, 256, 4), (768, 768, 4096, 4), (1024, 256, 512, 4), (256, 256, 4096, 16),
    (1024, 512, 512, 1), (512, 768, 256, 1), (768, 768, 512, 1), (2048, 1024, 4096, 1), (1024, 1024, 4096, 2)])
def test_small_products_sum_in_parts(rows, columns, depth, parts):
    """As XLA compiled them for an H100 (jax 0.10.2)."""
    assert split_k(rows, columns, depth) == parts


def test_a_gpu_reads_gradients_and_activations_as_they_lie():
    """[batch, sequence, features] summed over the first two: [features, sum], which the CPU's product copies. Heads
    between batch and features can't be seen as one with either."""
    assert not is_read_as_is((8, 16, 4), (0, 1), (), last=True, transposed=False)
    assert is_read_as_is((8, 16, 4), (0, 1), (), last=True, transposed=True)
    assert not is_read_as_is((8, 16, 2, 4), (3,), (0, 2), last=True, transposed=True)
