"""What XLA must know of a GPU that is not there: its `GpuTargetConfigProto`, as text.

In: a name. Out: the text. Numbers are NVIDIA's (CUDA programming guide, compute capabilities; data sheets; what
`cudaGetDeviceProperties` tells), as XLA publishes them for these devices (openxla/xla,
xla/backends/gpu/target_config/specs).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
      name: as users write it.
      product: the driver's name.
      capability: compute capability, (major, minor).
      cores: streaming multiprocessors.
      float_units: of a core.
      shared_bytes: shared memory of a core; `shared_optin_bytes` of it for one block.
      cache_bytes: of the second level.
      clock_ghz: boost.
      memory_bytes, memory_bytes_per_s: of the device memory.
    """

    name: str
    product: str
    capability: tuple[int, int]
    cores: int
    float_units: int
    shared_bytes: int
    shared_optin_bytes: int
    cache_bytes: int
    clock_ghz: float
    memory_bytes: int
    memory_bytes_per_s: int


GPUS: tuple[Gpu, ...] = (
    Gpu("v100", "Tesla V100-SXM2-16GB", (7, 0), 80, 64, 98304, 98304, 6291456, 1.53, 16935682048, 898048000000),
    Gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41, 42331013120,
        1555200000000),
    Gpu("a100", "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41, 85100068864, 2039040000000),
    Gpu("h100", "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98, 84942979072, 3352320000000),
    Gpu("h200", "NVIDIA H200", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98, 151397597184, 4800000000000),
    Gpu("gb200", "NVIDIA GB200", (10, 0), 152, 128, 233472, 232448, 135528448, 2.062, 197897748480, 7928064000000),
)
"""The GPUs that can be compiled for without having one."""

_CUDNN = (9, 10, 0)
"""The cuDNN whose operators the compiler may use. [chosen: the one of XLA's published specs]"""


def target_config(gpu: Gpu) -> str:
    """The text of the proto."""
    major, minor = gpu.capability
    extension = " feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    info = {"threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
            "shared_memory_per_core": gpu.shared_bytes, "threads_per_core_limit": 2048, "core_count": gpu.cores,
            "fpus_per_core": gpu.float_units, "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535,
            "block_dim_limit_z": 65535, "memory_bandwidth": gpu.memory_bytes_per_s, "l2_cache_size": gpu.cache_bytes,
            "clock_rate_ghz": gpu.clock_ghz, "device_memory_size": gpu.memory_bytes,
            "shared_memory_per_block_optin": gpu.shared_optin_bytes, "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536, "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024,
            "thread_dim_limit_z": 64}
    fields = "\n".join(f"  {key}: {value}" for key, value in info.items())
    return (f"gpu_device_info {{\n{fields}\n  cuda_compute_capability {{ major: {major} minor: {minor}{extension} }}\n"
            f"}}\nplatform_name: \"CUDA\"\n"
            f"dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} patch: {_CUDNN[2]} }}\n"
            f"device_description_str: \"{gpu.product}\"\n")
