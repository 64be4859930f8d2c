"""What stages pay per microbatch for what lies between them, of any slice of layers at once: compiled, and never as a
table of all slices, of which there are L².

In: what a layer takes in and gives back. Out: seconds.
"""

# In compiled loops an element of an array is a plain number, which its static type doesn't say.
# pyright: reportReturnType=false

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.solvers.large.compiled import compiled

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class HandOvers(NamedTuple):
    """A stage of layers [first, last] takes in activations and sends their cotangents back, and its programs are called
    and give back arrays. One of all layers pays nothing.

    Attributes:
      calls_s: [submesh]: its calls.
      result_s: [submesh]: each array given back.
      busy: [submesh]: how many times as long calls take because others make theirs meanwhile.
      given: [layer + 1]: arrays that the layers before give back.
      entering_s: [submesh, layer]: what enters a stage that begins there.
    """

    calls_s: Array
    result_s: Array
    busy: Array
    given: Array
    entering_s: Array

    def beginning(self, starts: Ints) -> "HandOvers":
        """The same of groups of layers that begin at some of them, the first included."""
        return self._replace(given=self.given[np.append(starts, len(self.given) - 1)],
                             entering_s=np.ascontiguousarray(self.entering_s[:, starts]))


def nothing_handed(submeshes: int, layers: int) -> HandOvers:
    """Stages that pay nothing."""
    none = np.zeros(submeshes)
    return HandOvers(none, none, none, np.zeros(layers + 1), np.zeros((submeshes, layers)))


@compiled
def handed_s(of: HandOvers, m: int, first: int, last: int) -> float:
    """Seconds per microbatch of a stage of layers [first, last] on a submesh."""
    if first == 0 and last == len(of.given) - 2:
        return 0.0
    return (of.calls_s[m] + of.result_s[m] * (of.given[last + 1] - of.given[first])) * of.busy[m] + \
        of.entering_s[m, first]


@compiled
def handed_between(of: HandOvers, m: int, firsts: Ints, lasts: Ints) -> Array:
    """The same for all slices that begin and end at some layers, [first, last]."""
    found = np.empty((len(firsts), len(lasts)))
    for a in range(len(firsts)):
        for b in range(len(lasts)):
            found[a, b] = handed_s(of, m, firsts[a], lasts[b])
    return found
