"""What the compiler says of one program: its memory, its collectives, its arithmetic.

In: `jax.stages.Lowered`. Out: `CompiledProgram`, plain data.
"""

import time
from dataclasses import dataclass
from typing import Any

from planner.errors import VerifyError
from planner.verify.arithmetic import matrix_flops
from planner.verify.collectives import CompiledCollective, collectives
from planner.verify.hlo import parse


@dataclass(frozen=True)
class CompiledProgram:
    """One program of a stage, compiled. Bytes are of one device.

    Attributes:
      stage: the stage that it belongs to.
      name: `"step"`, or in a pipeline `"forward"`, `"backward"`, `"zeros"`, `"finish"`, `"update"`.
      times: how often a step runs it.
      argument_bytes, output_bytes, temp_bytes, code_bytes: as the compiler allocates them.
      alias_bytes: of outputs that take over the memory of arguments.
      peak_bytes: the compiler's own peak, where it gives one.
      matrix_flops: of matrix products and convolutions, loops counted by their trips, in one run.
      optimal_s: the compiler's own estimate of one run, where it gives one; it counts the body of a loop once.
      collectives: of one run.
      compile_s: how long it took.
    """

    stage: int
    name: str
    times: int
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    alias_bytes: int
    code_bytes: int
    peak_bytes: int | None
    matrix_flops: int
    optimal_s: float | None
    collectives: tuple[CompiledCollective, ...]
    compile_s: float

    @property
    def total_bytes(self) -> int:
        """What must be there while it runs, in bytes."""
        return self.argument_bytes + self.extra_bytes

    @property
    def extra_bytes(self) -> int:
        """What must be there beside its arguments, in bytes."""
        return self.output_bytes - self.alias_bytes + self.temp_bytes + self.code_bytes


def compile_program(lowered: Any, stage: int, name: str, times: int, devices: int) -> tuple[CompiledProgram, Any]:
    """Compile a lowered function.

    Returns:
      What the compiler says of it, and the shardings of its outputs.

    Raises:
      VerifyError: the compiler refuses it, or tells nothing about memory.
    """
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as fault:
        what = str(fault).strip().splitlines()
        raise VerifyError(f"{name} of stage {stage} does not compile for this target: {type(fault).__name__}: "
                          f"{what[0] if what else ''}", "the target may have too little memory, or lack an operator") \
            from fault
    spent = time.perf_counter() - start
    memory = compiled.memory_analysis()
    if memory is None:
        raise VerifyError(f"the compiler tells nothing about the memory of {name} of stage {stage}",
                          "verify for another target, e.g. cpu:8")
    module = parse(compiled.as_text())
    cost = compiled.cost_analysis() or {}
    return CompiledProgram(
        stage, name, times, memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes,
        memory.alias_size_in_bytes, memory.generated_code_size_in_bytes,
        getattr(memory, "peak_memory_in_bytes", 0) or None, matrix_flops(module),
        _positive(cost.get("optimal_seconds")),
        collectives(module, devices), spent), compiled.output_shardings


def _positive(seconds: float | None) -> float | None:
    """An estimate; libtpu subtracts for what it doesn't know, and a sum below zero is none."""
    return seconds if seconds is not None and seconds > 0 else None
