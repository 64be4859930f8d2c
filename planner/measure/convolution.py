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
from planner.measure.pace import Allowance
from planner.measure.sizes import Images
from planner.measure.timing import Devices, Reading, time_on_all

KINDS = (FORWARD, INPUT_GRADIENT, FILTER_GRADIENT)

WINDOWS = (1, 3)
"""Sides of the filters."""

_TIMED_S = 4e-3
"""How long a timed program should run, were it as fast as a matmul. [chosen]"""

_LONGEST = 16
"""Convolutions in it at most: they stand one after the other, and more take long to compile. [chosen]"""


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution of stride one on square images of one device; `features` are input and output."""

    kind: str
    window: int
    features: tuple[int, int]


@dataclass(frozen=True)
class ConvolutionTimer:
    """Times cases on images of one size; `flops_per_s` is the matmul rate, `dispatch_s` what a call costs."""

    devices: Devices
    images: Images
    flops_per_s: float
    dispatch_s: float

    def rate(self, case: Case, allowance: Allowance) -> tuple[float, float]:
        """(FLOP/s of one device with padding counted, relative spread)."""
        image = (self.images.count, self.images.side, self.images.side)
        inputs = [((*image, case.features[0]), "float32"),
                  ((1, case.window, case.window, *case.features), "float32"), ((*image, case.features[1]), "float32")]
        flops = 2 * self.images.count * self.images.side**2 * case.window**2 * case.features[0] * case.features[1]
        length = max(1, min(_LONGEST, round(_TIMED_S * self.flops_per_s / flops)))

        def once(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
            if case.kind == FORWARD:
                return _convolve(x, w[0])
            if case.kind == INPUT_GRADIENT:
                return jax.vjp(lambda x: _convolve(x, w[0]), x)[1](g)[0]
            return jax.vjp(lambda w: _convolve(x, w), w[0])[1](g)[0]

        def chain(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
            # Each waits for the one before: compilers would run equal ones once. No loop: XLA on CPU compiles gradients
            # inside loops to code of its own, 3 to 30 times slower than what it calls outside.
            total = jax.numpy.zeros(())
            for _ in range(length):
                total = once(x + total, w + total, g + total).ravel()[0] * 1e-20
            return total[None]

        times = time_on_all(chain, inputs, self.devices, allowance=allowance)
        return flops * length / max(times.typical_s - self.dispatch_s, times.typical_s / 4), times.spread


def convolution_rates(timer: ConvolutionTimer, allowance: Allowance) -> tuple[ConvolutionRates, Reading]:
    """Rates of convolutions as parts of the matmul rate; the last of the images' features is the wide one."""
    *few, many = timer.images.features
    cases = [*(Case(kind, window, (many, many)) for kind in KINDS for window in WINDOWS),
             *(Case(FORWARD, window, pair) for window in WINDOWS for n in few for pair in ((n, many), (many, n)))]
    found = {case: timer.rate(case, part) for case, part in allowance.each(cases)}
    wide = {kind: median(rate for case, (rate, _) in found.items()
                         if case.kind == kind and min(case.features) == many) for kind in KINDS}
    widths = [min(case.features) * found[Case(FORWARD, case.window, (many, many))][0] / rate
              for case, (rate, _) in found.items() if min(case.features) < many]
    parts = {kind: min(1.0, rate / timer.flops_per_s) for kind, rate in wide.items()}
    side, count = timer.images.side, timer.images.count
    how = (f"convolutions of 1 x 1 and 3 x 3, {count} images of {side} x {side}, {many} features; "
           f"full_width from {', '.join(map(str, few))} features")
    rates = ConvolutionRates(parts[FORWARD], parts[INPUT_GRADIENT], parts[FILTER_GRADIENT],
                             min(max(1.0, median(widths)), float(many)))
    return rates, Reading(parts[FORWARD], median(spread for _, spread in found.values()), how)


def _convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
