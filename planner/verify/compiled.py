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
from planner.verify.report import ProgramRow


@dataclass(frozen=True)
class CompiledProgram:
    """One program of a stage, compiled.

    Attributes:
      stage: the stage that it belongs to.
      row: its name, how often a step runs it, its memory and times.
      matrix_flops: of matrix products and convolutions, loops counted by their trips, in one run.
      collectives: of one run.
    """

    stage: int
    row: ProgramRow
    matrix_flops: int
    collectives: tuple[CompiledCollective, ...]


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
    row = ProgramRow(
        name, times, memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes,
        memory.alias_size_in_bytes, memory.generated_code_size_in_bytes,
        getattr(memory, "peak_memory_in_bytes", 0) or None, _positive(cost.get("optimal_seconds")), spent)
    return CompiledProgram(stage, row, matrix_flops(module), collectives(module, devices)), compiled.output_shardings


def _positive(seconds: float | None) -> float | None:
    """An estimate; libtpu subtracts for what it doesn't know, and a sum below zero is none."""
    return seconds if seconds is not None and seconds > 0 else None
