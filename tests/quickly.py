"""How programs of tests are compiled: they take longer to compile than to run.

What LLVM makes of an operator is left plain, XLA's older emitters of loops on CPU compile in a third of the time, and a
program compiled as one module takes a quarter less than in parts for many cores (gpt-tiny's gradient over 8 devices).
Partitioning and collectives are those of any other run, buffers within 128 bytes (a scatter becomes a loop; tiny
models, jax 0.10.2). `QUICKLY`: environment variables that say so to a process, before its JAX starts.
"""

import importlib.util
import os

import jax

PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
"""XLA ends at a flag that it does not know: so does libtpu at these, and versions of JAX that they were not tried with
do without."""

_GIVEN = os.environ.get("XLA_FLAGS", "")
_IS_KNOWN = jax.__version_info__ < (0, 11) and importlib.util.find_spec("libtpu") is None

QUICKLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
           "XLA_FLAGS": f"{_GIVEN} {PLAIN}".strip() if _IS_KNOWN and PLAIN not in _GIVEN else _GIVEN}
