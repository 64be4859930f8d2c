"""The user's loss as it comes back from a framework's module, brought into the form that `planner.Model` asks for."""

from typing import Any


def with_state(result: Any, state: Any, *, training: bool) -> tuple[Any, ...]:
    """`(loss, state)` or `(loss, state, aux)` from `loss` or `(loss, aux)`; without a loss, `(outputs, state)`."""
    if training and isinstance(result, tuple):
        loss, aux = result
        return loss, state, aux
    return result, state
