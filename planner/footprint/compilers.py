"""What compilers do differently when they lay out a program: the facts that a footprint depends on.

In: a cluster. Out: the `Compiler` of its devices. Sources: XLA's passes, as seen in compiled programs (jax 0.10.2): for
CPU, `InstructionFusion::IsExpensive` and `BFScheduler`; for GPUs, `PriorityFusion`, and the Triton fusions of a row's
reductions with what reads them (`FusionBlockLevelRewriter`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log2, sqrt

from planner.core.hardware import Cluster
from planner.costs.liveness import Kernel, as_needed, as_ready, as_written

EXPENSIVE = frozenset({
    "exp", "exp2", "expm1", "log", "log1p", "log2", "tanh", "logistic", "erf", "erfc", "erf_inv", "rsqrt", "sqrt",
    "cbrt", "pow", "div", "rem", "sin", "cos", "tan", "atan2", "gather", "lgamma", "digamma", "threefry2x32",
})
"""Operators that XLA never runs twice on CPU, and lookups."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """How a compiler lays out a program.

    Attributes:
      expensive: operators that are never run twice.
      widens: products of 16-bit numbers are computed on float32 copies, and 16-bit numbers are added up in float32.
      merges_bytes: all-reduces that don't wait for each other are one, up to so many bytes each.
      order: in which kernels run.
      fuses_chains: kernels take in whole chains of operators: a reduction whatever makes its operand (else a product
        alone), and what is made of one large tensor is made again by all its readers.
      reads_transposed: products of matrices read operands with their dimensions in another order; else from a copy.
      splits_sums: products of small matrices sum in parts, side by side, that another kernel adds up (`split_k`);
        products that read one operand alike are one, and so is the buffer of their results.
      longest_row: a reduction over rows up to so many elements is in one kernel with what reads the rows again, which
        then can't write over them.
      hoists: what a loop makes of the same by nothing heavy is made before it.
    """

    expensive: frozenset[str] = EXPENSIVE
    widens: bool = False
    merges_bytes: float = 0.0
    order: Callable[[Sequence[Kernel]], tuple[int, ...]] = as_written
    fuses_chains: bool = False
    reads_transposed: bool = False
    splits_sums: bool = False
    longest_row: int = 0
    hoists: bool = True


XLA_CPU = Compiler(widens=True, merges_bytes=inf, order=as_ready)
XLA_GPU = Compiler(expensive=EXPENSIVE - {"exp", "exp2"}, merges_bytes=30 * 2**20 + 7, order=as_needed,
                   fuses_chains=True, reads_transposed=True, splits_sums=True, longest_row=8192, hoists=False)
"""`merges_bytes`: `xla_gpu_all_reduce_combine_threshold_bytes`. [`longest_row` fitted: 1024 are, 51,200 are not]"""

OTHER = Compiler()


def compiler_of(cluster: Cluster) -> Compiler:
    """The compiler of a cluster, told by what it does with all-reduces, which is in its profile."""
    if cluster.merges_all_reduces:
        return XLA_CPU
    return XLA_GPU if cluster.adds_before_all_reduce else OTHER


def split_k(rows: int, columns: int, depth: int) -> int:
    """Into how many parts XLA for GPUs cuts the sums of a product of two matrices, where it can't time candidates.

    [fitted: 30 products of bfloat16 for an H100; tiles of 128 x 128 for 1.5 times its 132 cores bound it]
    """
    wanted = sqrt(8192 * depth / (rows * columns))
    most = 1.5 * 132 * 128 * 128 / (rows * columns)
    return 1 if wanted < 3 or most < 2 else 2 ** int(log2(min(wanted, most)))
