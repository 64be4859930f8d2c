"""How fast convolutions run beside matmuls: forward, gradients of the input and of the filter; and with few features.

Compilers send only some convolutions to their fast kernels (XLA on CPU: those whose window is small and features many),
and the gradients are convolutions of unusual shapes.

In: devices and their matmul rate. Out: `core.hardware.ConvolutionRates`.
"""

from dataclasses import dataclass
from statistics import median

import jax

from planner.core.hardware import ConvolutionRates
from planner.costs.compute import FILTER_GRADIENT, FORWARD, INPUT_GRADIENT
from planner.measure.arithmetic import Reading
from planner.measure.timing import Devices, time_on_all

WIDE = 64
"""Features of the convolutions whose rate is a kind's."""

NARROW = (2, 4, 8)
"""Features of those that tell how much is lost where they are few."""


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution of stride one on square images of one device; `features` are input and output."""

    kind: str
    batch: int
    image: int
    window: int
    features: tuple[int, int]

    @property
    def flops(self) -> int:
        """Padding counted."""
        return 2 * self.batch * self.image**2 * self.window**2 * self.features[0] * self.features[1]


def convolution_rates(devices: Devices, flops_per_s: float, batch: int) -> tuple[ConvolutionRates, Reading]:
    """Rates of convolutions as parts of `flops_per_s`, the rate that large matmuls reach.

    Args:
      devices: all devices.
      flops_per_s: of float32.
      batch: images of one device.
    """
    spreads: list[float] = []

    def rate(case: Case) -> float:
        found, spread = _rate(case, devices)
        spreads.append(spread)
        return found

    wide = {kind: [(window, rate(Case(kind, batch, 8, window, (WIDE, WIDE)))) for window in (1, 3)]
            for kind in (FORWARD, INPUT_GRADIENT, FILTER_GRADIENT)}
    widths = [n * whole / rate(Case(FORWARD, batch, 8, window, pair)) for window, whole in wide[FORWARD]
              for n in NARROW for pair in ((n, WIDE), (WIDE, n))]
    parts = {kind: min(1.0, median(r for _, r in rates) / flops_per_s) for kind, rates in wide.items()}
    how = (f"convolutions of 1 x 1 and 3 x 3, {batch} images of 8 x 8, {WIDE} features; "
           f"full_width from {', '.join(map(str, NARROW))} features")
    return (ConvolutionRates(parts[FORWARD], parts[INPUT_GRADIENT], parts[FILTER_GRADIENT],
                             min(max(1.0, median(widths)), float(WIDE))), Reading(parts[FORWARD], max(spreads), how))


def _rate(case: Case, devices: Devices) -> tuple[float, float]:
    """(FLOP/s of one device, relative spread)."""
    image = (case.batch, case.image, case.image)
    images, filters = (*image, case.features[0]), (1, case.window, case.window, *case.features)
    inputs = [(images, "float32"), (filters, "float32"), ((*image, case.features[1]), "float32")]
    length = max(1, round(_TIMED_FLOPS / case.flops))

    def once(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
        if case.kind == FORWARD:
            return _convolve(x, w)
        if case.kind == INPUT_GRADIENT:
            return jax.vjp(lambda x: _convolve(x, w), x)[1](g)[0]
        return jax.vjp(lambda w: _convolve(x, w), w)[1](g)[0]

    def chain(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
        total = jax.numpy.zeros(())
        for _ in range(length):
            # Each waits for the one before: compilers would run equal ones once.
            made = once(x + total, w[0] + total, g + total)
            total = made.ravel()[0] * 1e-20
        return total[None]

    times = time_on_all(chain, inputs, devices)
    return case.flops * length / times.typical_s, times.spread


_TIMED_FLOPS = 2e7
"""Of one device in one timed program: about a millisecond of a slow core. [chosen]"""


def _convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
