"""What plans say is communicated, and what the compiled step communicates: bytes per kind, in the loop over
microbatches and once per batch, on eight CPU devices.

XLA on CPU runs a reduce-scatter as an all-reduce, which the profile says, so both are counted as all-reduces; and it
moves 16-bit floats as float32. The embedding of the GPT is tied: its two gradients are one sum where both are partial
sums, and so they are in the plan.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import pytest

import planner
from planner import models
from tests.integration.hlo import collectives

SIZES: Mapping[str, Mapping[str, Any]] = {"gpt-tiny": {"batch_size": 32, "layers": 2, "hidden": 64},
                                          "wresnet-tiny": {"batch_size": 32}}
SMALL = 0.02
"""Share of bytes that gathers of small things may add: scales of norms that the compiler moves to where it multiplies
them, and running statistics."""


def counted(name: str, recipe: str, microbatches: int, **changed: Any) -> tuple[Counter, Counter, tuple[str, ...]]:
    """Bytes by (kind, per microbatch or batch), predicted and compiled; warnings of the step."""
    model = models.build(name, **{"dtype": "float32", **SIZES[name], **changed})
    plan = planner.plan(model, planner.cluster("cpu-8"), recipe=recipe, stages=1, microbatches=microbatches)
    step, state = plan.compile(model, jax.devices(), params=models.init(model), state=models.init_state(model))
    predicted: Counter[tuple[str, str]] = Counter()
    for c in plan.stages[0].collectives:
        kind = "all-reduce" if c.kind == "reduce-scatter" else c.kind
        predicted[kind, c.per if microbatches > 1 else "microbatch"] += c.bytes
    found: Counter[tuple[str, str]] = Counter()
    for c in collectives(step.lower(state, model.batch).compile().as_text()):
        found[c.kind, "batch" if microbatches > 1 and not c.in_loop else "microbatch"] += c.bytes
    return predicted, found, step.warnings


CASES = [("gpt-tiny", recipe, microbatches) for recipe in ("data", "fsdp", "tensor") for microbatches in (1, 4)] \
    + [pytest.param("wresnet-tiny", recipe, 4, marks=pytest.mark.slow) for recipe in ("data", "fsdp", "tensor")]


@pytest.mark.parametrize(("name", "recipe", "microbatches"), CASES)
def test_the_step_communicates_what_the_plan_says(name, recipe, microbatches):
    """Every all-reduce, the gradients' too: what waits for the end of the batch waits, and nothing else. Under FSDP,
    every gather of a parameter: in every microbatch, forward and backward."""
    predicted, found, warnings = counted(name, recipe, microbatches)
    assert warnings == ()
    assert predicted["all-reduce", "microbatch"] == found["all-reduce", "microbatch"]
    assert predicted["all-reduce", "batch"] == found["all-reduce", "batch"]
    if recipe != "tensor":  # gathers of activations: the partitioner makes more, or other ones
        wanted = predicted["all-gather", "microbatch"]
        assert wanted <= found["all-gather", "microbatch"] <= wanted * (1 + SMALL)
        assert found["all-gather", "batch"] <= SMALL * wanted
    if name == "gpt-tiny":
        assert found["all-gather", "microbatch"] == predicted["all-gather", "microbatch"]


@pytest.mark.parametrize(("recipe", "microbatches"), [("data", 1), ("fsdp", 2), ("tensor", 2)])
def test_a_model_in_16_bit_communicates_in_32_on_cpu(recipe, microbatches):
    """To the byte, the gradients of the tied embedding among them: each goes through the cast of its own reader."""
    predicted, found, warnings = counted("gpt-tiny", recipe, microbatches, dtype="bfloat16")
    assert warnings == ()
    assert predicted == found
