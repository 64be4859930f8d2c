"""Other starts: costs are perturbed at random and the messages settle anew, on the whole graph at once.

Tree moves reach what is near; all roundings under one set of prices tend to lie together. Noise on the costs (perturb
and MAP; Papandreou and Yuille, 2011), a small part of the gap for each choice, moves whole regions to choices that are
nearly as good, which `relink` can then take part by part.

In: a `FlatModel`, `Prices`. Out: a choice, within the limit or near it.
"""

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.flat import FlatModel, Floats, Ints
from planner.solvers.large.prices import Prices
from planner.solvers.large.sweeps import sweep

SWEEPS, SETTLED = 30, 5
"""Sweeps under the perturbed costs, and how many of them are let pass before picks are looked at."""

SCALES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Parts of the gap for the noise on a choice, drawn at random [on M: 1e-2 and more leads to poor choices]."""


def perturbed(model: FlatModel, prices: Prices, costs: Floats, gap: float, rng: np.random.Generator) -> Ints | None:
    """The picks that are over the limit by least, then cheapest; None if all are forbidden.

    Args:
      costs: what choices cost with their rent at these prices.
      gap: of the best choice known.
    """
    noisy = costs + rng.choice(SCALES) * gap * rng.gumbel(size=len(costs))
    messages = prices.messages.copied()
    best: tuple[float, float, Ints] | None = None
    for n in range(SWEEPS):
        picks = sweep(model, messages, noisy, forward=n % 2 == 0).picks
        cost = model.cost(picks)
        if n < SETTLED or cost >= INFINITE_COST:
            continue
        over = float(np.maximum(model.usage(picks) - model.room, 0).sum())
        if best is None or (over, cost) < best[:2]:
            best = over, cost, picks
    return None if best is None else best[2]
