"""What a plan can be compiled for, by name: devices that are here, or that only a compiler knows.

`local`: the devices of this process. `cpu:N`: N virtual CPU devices of a client of their own. `tpu:v5p:4x4x4`: a TPU
topology, by libtpu. `cuda:h100:8` or `cuda:h100:2x8` (nodes × GPUs): by JAX's CUDA plugin. In: a name, a plan. Out:
`Target`. Source: https://docs.jax.dev/en/latest/aot.html, and `jax.experimental.topologies`.
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import jax
from jax.experimental import topologies

from planner import compat
from planner.core.plan import PlanRecord
from planner.emit.meshes import laid_out
from planner.errors import UnknownNameError, VerifyError
from planner.verify.gpus import GPUS, target_config

KINDS = ("auto", "local", "cpu:N", "tpu:GENERATION:TOPOLOGY", "cuda:GPU:COUNT")
MAX_CPUS = 512
"""Virtual CPU devices that a target may have. [chosen: compiling for more takes minutes]"""

_TPU_DIMS = MappingProxyType({"v2": 2, "v3": 2, "v4": 3, "v5e": 2, "v5p": 3, "v6e": 2})
"""TPU generation -> dimensions of its topologies (https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm)."""


@dataclass(frozen=True)
class Target:
    """Devices to compile for.

    Attributes:
      name: as the user wrote it, or what was chosen for `auto`.
      platform: `"cpu"`, `"tpu"` or `"gpu"`.
      devices: flat; those of a topology can't hold arrays.
    """

    name: str
    platform: str
    devices: tuple[Any, ...]


def target_of(name: str, record: PlanRecord, local: Sequence[Any] | None = None) -> Target:
    """The target of that name.

    Args:
      name: see the module; `auto` is the topology of the plan's cluster if that is of TPUs, else the local devices, or
        virtual CPU devices where there are too few.
      record: the plan; the target must have as many devices.
      local: the devices of `local`; default: all of this process.

    Raises:
      UnknownNameError, VerifyError: no such target, another number of devices, or its compiler is not installed.
    """
    name = _automatic(record, local) if name == "auto" else name
    kind, _, rest = name.partition(":")
    if kind == "local" and not rest:
        devices = tuple(local if local is not None else jax.devices()[:record.device_count])
    elif kind == "cpu":
        devices = _cpus(name, rest)
    elif kind == "tpu":
        devices = tuple(laid_out(record.cluster, _tpus(name, rest)))
    elif kind == "cuda":
        devices = _gpus(name, rest)
    else:
        raise UnknownNameError("target", name, KINDS)
    if len(devices) != record.device_count:
        raise VerifyError(f"target {name!r} has {len(devices)} devices, the plan is for {record.device_count}",
                          f"name one of {record.device_count}, e.g. cpu:{record.device_count}")
    return Target(name, devices[0].platform, devices)


def _automatic(record: PlanRecord, local: Sequence[Any] | None) -> str:
    generation = tpu_generation(record.cluster.device.name)
    if generation is not None:
        return f"tpu:{generation}:{tpu_topology(generation, record.device_count)}"
    here = len(local) if local is not None else len(jax.devices())
    return "local" if here >= record.device_count else f"cpu:{record.device_count}"


def tpu_generation(device: str) -> str | None:
    """The generation in a TPU's name (`"TPU v5p"`, `"tpu-v5e"`); None for other devices."""
    found = re.search(r"\btpu[ _-]*(v\d+[a-z]*)", device.lower())
    return found[1] if found else None


def tpu_topology(generation: str, chips: int) -> str:
    """The topology of that many chips, as near to a square or cube as powers of two allow: `"4x4x4"`.

    Raises:
      VerifyError: the generation is unknown, or there is no such slice.
    """
    dims = _TPU_DIMS.get(generation)
    if dims is None or chips & (chips - 1) or (dims == 3 and chips < 4):
        raise VerifyError(f"no TPU topology of {chips} {generation} chips is known",
                          "name one: --target tpu:v5p:4x4x4, tpu:v5e:4x8")
    sizes = [1] * dims
    if dims == 3:  # a host has 2x2x1
        sizes, chips = [1, 2, 2], chips // 4
    while chips > 1:
        sizes[sizes.index(min(sizes))] *= 2
        chips //= 2
    ordered = sorted(sizes)
    return "x".join(map(str, [*ordered[1:], 1] if dims == 3 and ordered[0] == 1 else ordered))


def _cpus(name: str, rest: str) -> tuple[Any, ...]:
    if not rest.isdigit() or not 1 <= int(rest) <= MAX_CPUS:
        raise VerifyError(f"target {name!r} is not cpu:N with N from 1 to {MAX_CPUS}", "e.g. cpu:64")
    return tuple(compat.cpu_devices(int(rest)))


def _tpus(name: str, rest: str) -> tuple[Any, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise VerifyError(f"target {name!r} needs libtpu, Google's compiler for TPUs, which is not installed",
                          "pip install 'jax-planner[tpu]' (no TPU is needed), or verify for cpu:N")
    os.putenv("TPU_SKIP_MDS_QUERY", "1")  # libtpu asks Google Cloud what TPU it is on, for minutes where it is on none
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=rest).devices)
    except (RuntimeError, ValueError) as fault:
        raise VerifyError(f"libtpu knows no topology {rest!r}: {str(fault).splitlines()[0]}",
                          "write tpu:GENERATION:SHAPE with a shape that is sold, e.g. tpu:v5p:2x2x4 or tpu:v5e:4x4"
                          ) from fault


def _gpus(name: str, rest: str) -> tuple[Any, ...]:
    model, _, count = rest.partition(":")
    gpu = next((g for g in GPUS if g.name == model), None)
    if gpu is None:
        raise UnknownNameError("GPU", model, tuple(g.name for g in GPUS))
    shape = [int(n) for n in count.split("x")] if re.fullmatch(r"\d+(x\d+)?", count) else []
    if not shape or min(shape) < 1:
        raise VerifyError(f"target {name!r} does not say how many GPUs",
                          f"write cuda:{model}:8, or cuda:{model}:2x8 for two nodes of 8")
    if all(importlib.util.find_spec(m) is None for m in ("jax_cuda13_plugin", "jax_cuda12_plugin")):
        raise VerifyError(f"target {name!r} needs JAX's CUDA plugin, which is not installed",
                          "pip install 'jax-planner[cuda-compile]' (no GPU is needed), or verify for cpu:N")
    nodes, each = (1, shape[0]) if len(shape) == 1 else shape
    try:
        found = topologies.get_topology_desc(platform="cuda", topology_name=str(prod(shape)),
                                             topology=f"1x{nodes}x{each}", target_config=target_config(gpu))
    except (RuntimeError, ValueError, NotImplementedError) as fault:
        raise VerifyError(f"the CUDA plugin makes no topology {rest!r}: {str(fault).splitlines()[0]}",
                          "its version must be that of jax: pip install 'jax-planner[cuda-compile]'; where JAX "
                          "refuses it for want of CUDA's libraries, set JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1") from fault
    return tuple(found.devices)
