"""How a run goes on: step time, tokens or examples a second, model FLOP/s, utilisation, memory; a line a step.

In: a plan's record, and what was measured of the last steps. Out: `Progress`, whose text is a line under `HEADER`.
Model FLOPs are the plan's (recomputation not counted); utilisation is theirs against the peak of the planned device in
the dtype that the plan computes in, as `report.breakdown` states it for the predicted step.
"""

from dataclasses import asdict, dataclass

from planner.core.plan import PlanRecord
from planner.report import breakdown, units

HEADER = f"{'step':>7}  {'loss':>12}  {'time':>9}  {'rate':>18}  {'a device':>15}  {'MFU':>5}  {'memory':>9}"


@dataclass(frozen=True)
class Amount:
    """What a step works through: `count` of `unit` (`"tokens"` or `"examples"`)."""

    count: int
    unit: str


@dataclass(frozen=True)
class Memory:
    """Peak memory of the fullest device: as the devices count it, or the plan's prediction where they don't."""

    peak_bytes: int
    measured: bool


@dataclass(frozen=True)
class Rates:
    """How fast steps are.

    Attributes:
      step_s: time of a step: the median of the last ones.
      per_s: tokens or examples a second, `unit` says which.
      flops_per_device_s: model FLOPs a second and device.
      mfu: model FLOPs utilisation, a part of 1; None where the peak of what runs isn't known.
      memory: the fullest device's peak.
    """

    step_s: float
    per_s: float
    unit: str
    flops_per_device_s: float
    mfu: float | None
    memory: Memory


@dataclass(frozen=True)
class Progress:
    """A step that is done.

    Attributes:
      number: of the step, from 0.
      loss: None for a step without one.
      time_s: from the end of the step before, or from its own start where that was later, to its end. The first
        compiles.
      rates: at the pace of the last steps.
      host_s: processor time that starting a step takes the thread that does it, median of the last ones.
      note: something else that the user should know of this step.
    """

    number: int
    loss: float | None
    time_s: float
    rates: Rates
    host_s: float = 0.0
    note: str = ""

    @property
    def host(self) -> str:
        """What starting a step takes, in words."""
        return (f"starting a step's programs took {units.seconds(self.host_s)} of processor time, "
                f"{units.share(self.host_s / self.rates.step_s)} of a step")

    def __str__(self) -> str:
        r = self.rates
        loss = "–" if self.loss is None else f"{self.loss:.6f}"
        text = (f"{self.number:>7}  {loss:>12}  {units.seconds(self.time_s):>9}  {rate(r):>18}  "
                f"{units.rate(r.flops_per_device_s):>15}  {utilisation(r):>5}  {memory(r):>9}")
        return f"{text}  {self.note}" if self.note else text

    @property
    def brief(self) -> str:
        """The same in running text, of the last steps together."""
        r = self.rates
        parts = [f"step {self.number}", "" if self.loss is None else f"loss {self.loss:.4f}",
                 f"{units.seconds(r.step_s)} a step", rate(r), f"{units.rate(r.flops_per_device_s)} a device",
                 f"MFU {utilisation(r)}", f"memory {memory(r)}"]
        return " · ".join(part for part in parts if part)

    def data(self) -> dict[str, object]:
        """As plain data for JSON."""
        return asdict(self)


def rates(record: PlanRecord, step_s: float, amount: Amount, used: Memory, *, as_planned: bool = True) -> Rates:
    """The rates of steps that take `step_s` and work through `amount`.

    Args:
      record: the plan that they run under.
      step_s: see `Rates`; above zero.
      amount: what each works through.
      used: memory of the fullest device.
      as_planned: whether what runs is the kind of device planned for; else its peak isn't known.
    """
    flops = record.model_flops / (record.device_count * step_s)
    return Rates(step_s, amount.count / step_s, amount.unit, flops,
                 flops / breakdown.peak(record).flops_per_s if as_planned else None, used)


def rate(r: Rates) -> str:
    """`"42.1 ktokens/s"`."""
    return units.scaled(r.per_s, f"{r.unit}/s")


def utilisation(r: Rates) -> str:
    """`"41 %"`, or `"n/a"`."""
    return "n/a" if r.mfu is None else units.share(r.mfu)


def memory(r: Rates) -> str:
    """`"12.8 GB"`; with a star where it is the plan's prediction."""
    return units.size(r.memory.peak_bytes) + ("" if r.memory.measured else "*")
