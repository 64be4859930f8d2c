"""What the compiler made of a step of one stage: bytes communicated by kind, memory reserved.

In: a step, its state, the model. Out: plain data for rows of JSON; None for a pipeline, which is many programs.
"""

from collections import Counter
from typing import Any

from planner.model import Model
from planner.runtime.single import SingleStep
from planner.runtime.state import RunState
from tests.integration.hlo import collectives


def looked_into(step: Any, state: RunState, model: Model, microbatches: int) -> dict[str, Any]:
    """`collectives`: [per, kind, bytes], counted as `planner.costs.collectives` does; `reserved_bytes`: of arguments,
    outputs and temporaries of one device."""
    if not isinstance(step, SingleStep):
        return {"collectives": None, "reserved_bytes": None}
    compiled = step.lower(state, model.batch).compile()
    moved = Counter[tuple[str, str]]()
    for c in collectives(compiled.as_text() or ""):
        moved["microbatch" if c.in_loop or microbatches == 1 else "batch", c.kind] += c.bytes
    memory = compiled.memory_analysis()
    return {"collectives": [[per, kind, size] for (per, kind), size in sorted(moved.items())],
            "reserved_bytes": {"arguments": memory.argument_size_in_bytes, "outputs": memory.output_size_in_bytes,
                               "temporaries": memory.temp_size_in_bytes}}
