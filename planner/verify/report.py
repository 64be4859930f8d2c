"""What verification found: per stage, predicted beside compiled, and what the plan did not foresee.

A plan passes if in every stage the bytes that collectives send are within 10 %, peak memory is within 10 % and not
under-predicted by more than 3 %, and no collective that the plan does not foresee takes more than 1 % of the step.
FLOPs are shown, and what is off is marked, but they don't decide: a compiler may compute again what is cheap. Plain
data: `as_data()` is what `--json` prints.
"""

from dataclasses import asdict, dataclass
from typing import Any

BYTES_WITHIN = 0.10
MEMORY_WITHIN = 0.10
MEMORY_UNDER = 0.03
FLOPS_WITHIN = 0.10
"""Relative tolerances: bytes of collectives, peak memory, memory that was predicted too small, FLOPs."""

FINDING = 0.01
"""Share of the step's time from which an unforeseen collective is a finding."""

SMALL_BYTES = 4096
"""A difference of bytes up to this is none: scalars, such as the loss. [chosen: they cost latency, not bytes]"""

SMALL_MEMORY = 16384
"""The same for memory. [chosen: every buffer is rounded up to 64 to 256 bytes, and a step has a hundred]"""


@dataclass(frozen=True, slots=True)
class KindRow:
    """All collectives of one kind along the same axes in a stage and step: how many tensors, their bytes (counted as
    `costs/collectives.py` does), and what a device sends of them."""

    kind: str
    axes: str
    foreseen: int
    foreseen_bytes: int
    made: int
    made_bytes: int
    foreseen_sent: int
    made_sent: int


@dataclass(frozen=True, slots=True)
class Surprise:
    """A collective on one side only.

    Attributes:
      kind, axes: as in `KindRow`.
      program: that makes it; "" where the plan foresees it and none makes it.
      operator: primitive, phase and source line of the operator, or the parameter whose gradient it is.
      tensor: the array on one device, e.g. `"f32[8,64]"`.
      bytes, times: of one, and how often a step runs it.
      share: of the predicted step time, by the plan's own prices.
    """

    kind: str
    axes: str
    program: str
    operator: str
    tensor: str
    bytes: int
    times: int
    share: float


@dataclass(frozen=True, slots=True)
class ProgramRow:
    """A compiled program. Bytes are of one device.

    Attributes:
      name: `"step"`, or in a pipeline `"forward"`, `"backward"`, `"zeros"`, `"finish"`, `"update"`.
      times: how often a step runs it.
      argument_bytes, output_bytes, temp_bytes, code_bytes: as the compiler allocates them.
      alias_bytes: of outputs that take over the memory of arguments.
      peak_bytes: the compiler's own peak, where it gives one.
      optimal_s: the compiler's own estimate of one run, where it gives one; it counts the body of a loop once.
      compile_s: how long it took.
    """

    name: str
    times: int
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    alias_bytes: int
    code_bytes: int
    peak_bytes: int | None
    optimal_s: float | None
    compile_s: float

    @property
    def total_bytes(self) -> int:
        """What must be there while it runs, in bytes."""
        return self.argument_bytes + self.extra_bytes

    @property
    def extra_bytes(self) -> int:
        """What must be there beside its arguments, in bytes."""
        return self.output_bytes - self.alias_bytes + self.temp_bytes + self.code_bytes


@dataclass(frozen=True)
class StageReport:
    """One stage, of one device and step.

    Attributes:
      index: of the stage.
      kinds: collectives by kind and axes.
      unforeseen: made by the compiler, not in the plan; the dearest first.
      absent: in the plan, not made by the compiler; the dearest first.
      predicted_bytes, compiled_bytes: peak memory.
      predicted_flops, compiled_flops: of matrix products and convolutions.
      programs: what was compiled.
    """

    index: int
    kinds: tuple[KindRow, ...]
    unforeseen: tuple[Surprise, ...]
    absent: tuple[Surprise, ...]
    predicted_bytes: int
    compiled_bytes: int
    predicted_flops: int
    compiled_flops: int
    programs: tuple[ProgramRow, ...]

    @property
    def foreseen_traffic(self) -> int:
        """Bytes of all collectives that the plan foresees."""
        return sum(k.foreseen_bytes for k in self.kinds)

    @property
    def made_traffic(self) -> int:
        """Bytes of all collectives that the programs make."""
        return sum(k.made_bytes for k in self.kinds)

    @property
    def foreseen_sent(self) -> int:
        """Bytes that a device sends in all collectives that the plan foresees."""
        return sum(k.foreseen_sent for k in self.kinds)

    @property
    def made_sent(self) -> int:
        """Bytes that a device sends in all collectives that the programs make."""
        return sum(k.made_sent for k in self.kinds)

    @property
    def findings(self) -> tuple[Surprise, ...]:
        """Unforeseen collectives that take more than `FINDING` of the step."""
        return tuple(u for u in self.unforeseen if u.share > FINDING)

    @property
    def traffic_passed(self) -> bool:
        """Whether the bytes that collectives send are as predicted."""
        off = abs(self.made_sent - self.foreseen_sent)
        return off <= max(BYTES_WITHIN * self.made_sent, SMALL_BYTES)

    @property
    def memory_passed(self) -> bool:
        """Whether the peak is as predicted."""
        over = self.predicted_bytes - self.compiled_bytes
        under = max(MEMORY_UNDER * self.compiled_bytes, SMALL_MEMORY)
        return -under <= over <= max(MEMORY_WITHIN * self.compiled_bytes, SMALL_MEMORY)

    @property
    def flops_as_predicted(self) -> bool:
        """Whether FLOPs are as predicted."""
        return abs(self.predicted_flops - self.compiled_flops) <= FLOPS_WITHIN * max(self.compiled_flops, 1)

    @property
    def passed(self) -> bool:
        """Whether the stage is as predicted."""
        return self.traffic_passed and self.memory_passed and not self.findings


@dataclass(frozen=True)
class VerifyReport:
    """All stages.

    Attributes:
      model: its name.
      target: what it was compiled for.
      devices: how many.
      stages: in order.
      notes: what the reader should know.
    """

    model: str
    target: str
    devices: int
    stages: tuple[StageReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return all(s.passed for s in self.stages)

    @property
    def findings(self) -> tuple[Surprise, ...]:
        """The findings of all stages, the dearest first."""
        return tuple(sorted((f for s in self.stages for f in s.findings), key=lambda f: -f.share))

    @property
    def compile_s(self) -> float:
        """Seconds of compiling."""
        return sum(p.compile_s for s in self.stages for p in s.programs)

    def as_data(self) -> dict[str, Any]:
        """The report as plain data, with what was judged."""
        stages = [asdict(s) | {"foreseen_traffic": s.foreseen_traffic, "made_traffic": s.made_traffic,
                               "foreseen_sent": s.foreseen_sent, "made_sent": s.made_sent,
                               "traffic_passed": s.traffic_passed, "memory_passed": s.memory_passed,
                               "flops_as_predicted": s.flops_as_predicted, "passed": s.passed,
                               "findings": [asdict(f) for f in s.findings]} for s in self.stages]
        return {"passed": self.passed, "model": self.model, "target": self.target, "devices": self.devices,
                "compile_s": self.compile_s, "notes": list(self.notes), "stages": stages,
                "tolerances": {"bytes": BYTES_WITHIN, "memory": MEMORY_WITHIN, "memory_under": MEMORY_UNDER,
                               "finding": FINDING}}

    def __str__(self) -> str:
        from planner.report.tables import plain
        from planner.verify.tables import report

        return plain(report(self), 110)

    def __rich__(self) -> Any:
        """What `rich.print` shows: the tables, in colour."""
        from planner.verify.tables import report

        return report(self)
