"""What is measured, by platform: devices that share a CPU's cores show what they can at small sizes, accelerators only
at large ones.

In: the name of a JAX platform. Out: `Sizes`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Images:
    """What is convolved: `count` square images; features ascend, and the last are enough for full speed."""

    count: int
    side: int
    features: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of one device's share.

    Attributes:
      sides: sizes of matmuls in each of their three dimensions, ascending.
      batches: how many products in one operator, ascending from 1.
      dtypes: of the matmuls.
      working_sets: bytes that a pass over memory reads and writes, ascending.
      exponentials: elements whose exponentials are timed.
      images: of a convolution.
      messages: float32 elements of a device's buffer in a collective, ascending.
      overlapped: float32 elements of the buffer that is combined beside compute.
      timed_bytes: that a device moves in one timed program: some milliseconds.
      copies: steps of one turn of a timed loop, at most, each with arrays of its own.
      queues: whether programs and kernels are started while earlier ones run, so that a start costs nothing but where
        nothing else runs.
    """

    sides: tuple[int, ...]
    batches: tuple[int, ...]
    dtypes: tuple[str, ...]
    working_sets: tuple[int, ...]
    exponentials: int
    images: Images
    messages: tuple[int, ...]
    overlapped: int
    timed_bytes: float
    copies: int = 1
    queues: bool = False


CPU = Sizes(
    sides=(16, 64, 256, 1024), batches=(1, 16), dtypes=("float32", "bfloat16"),
    working_sets=tuple(1 << p for p in range(14, 26)), exponentials=1 << 18, images=Images(8, 8, (2, 4, 8, 64)),
    messages=(1 << 10, 1 << 16, 1 << 19), overlapped=1 << 18, timed_bytes=24e6)
"""16 to 1024 a side; 16 KiB, inside a core's own cache, to 32 MiB, times eight devices beyond what cores share;
messages of 4 KiB, 256 KiB and 2 MiB."""

ACCELERATOR = Sizes(
    sides=(128, 512, 2048, 8192), batches=(1, 16), dtypes=("bfloat16", "float32"),
    working_sets=tuple(1 << p for p in range(28, 32)), exponentials=1 << 24, images=Images(64, 32, (16, 32, 64, 256)),
    messages=(1 << 10, 1 << 18, 1 << 22, 1 << 25), overlapped=1 << 23, timed_bytes=1e10,
    copies=32, queues=True)
"""128, a tile's side, to 8192; 256 MiB to 2 GiB, beyond any cache; messages of 4 KiB to 128 MiB. A turn of a loop costs
tens of microseconds (measured, H200), as much as a matmul of 2048 a side or a pass over 128 MiB."""


def sizes_for(platform: str) -> Sizes:
    """Those of `"cpu"`, or of any accelerator."""
    return CPU if platform == "cpu" else ACCELERATOR
