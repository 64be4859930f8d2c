"""A model whose work is waiting: every layer takes a given time in its forward, and in each gradient of its backward.

So as many devices as one likes are at work at once on a machine of few cores, and how long they wait for each other is
that of the pipeline and its driver, not of the processor. XLA runs the operator (`waiting.cc`, compiled at first use
with the system's C++ compiler) on a thread of the device. Programs that it takes for cheap run in the thread that calls
them, as programs with Python callbacks do; so each wait stands beside a small product of matrices.

In: seconds. Out: a `Model`.
"""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from planner import Model
from planner.schedules import TaskTimes

WIDTH, EXAMPLES = 64, 8
SOURCE = Path(__file__).with_name("waiting.cc")
TARGET = "planner_wait"


def register(folder: Path) -> None:
    """Compile the operator into a folder and make it known to XLA on CPU."""
    library = folder / "waiting.so"
    subprocess.run(["c++", "-std=c++17", "-O1", "-w", "-fPIC", "-shared", f"-I{jax.ffi.include_dir()}", str(SOURCE),
                    "-o", str(library)], check=True)
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(ctypes.CDLL(str(library)).PlannerWait), platform="cpu")


def waiting_model(layers: int, times: TaskTimes, microbatches: int) -> Model:
    """Equal layers of two operators, a microbatch of which takes these times. Nobody asks for the input gradient of
    the first, whose time is added to its weight gradient."""
    keys = jax.random.split(jax.random.key(0), layers)
    params = [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in keys]
    layer, first = _layer(times), _layer(TaskTimes(times.forward_s, 0.0, times.backward_s))

    def loss(params: Any, batch: Any) -> Any:
        x = batch
        for n, w in enumerate(params):
            x = x + (layer if n else first)(x, w)
        return jnp.mean(x**2)

    return Model(loss, params, jnp.ones((microbatches * EXAMPLES, WIDTH)), optax.sgd(1e-3), name="waiting")


def _wait(x: Any, seconds: float) -> Any:
    return jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype))(x, seconds=np.float32(seconds))


def _layer(times: TaskTimes) -> Any:
    @jax.custom_vjp
    def layer(x: Any, w: Any) -> Any:
        return _wait(x @ w, times.forward_s)

    def forward(x: Any, w: Any) -> Any:
        return layer(x, w), (x, w)

    def backward(kept: Any, g: Any) -> Any:
        x, w = kept
        return _wait(g @ w.T, times.input_s), _wait(x.T @ g, times.weight_s)

    layer.defvjp(forward, backward)
    return layer
