"""What the compiled programs of a run are called, so that profilers show it and a profile is read back.

In: a stage and what its program does. Out: a name, which the compiler puts `jit_` before; or both from a name.
"""

import re

FORWARD, BACKWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = "forward", "backward", "input_gradient", "weight_gradient"
ZEROS, FINISH, UPDATE, STEP = "zeros", "finish", "update", "step"
"""Once per microbatch: the first four. Once a step: zeros for the gradients to be added to; their end, summed over
devices; the optimizer, in rounds; or all of a plan of one stage."""

_NAME = re.compile(r"^(?:jit_)?stage(\d+)_([a-z_]+?)(?:_round\d+)?$")


def program_name(stage: int, work: str, round_: int | None = None) -> str:
    """`"stage1_forward"`, `"stage1_update_round2"`."""
    return f"stage{stage}_{work}" + ("" if round_ is None else f"_round{round_}")


def named_program(name: str) -> tuple[int, str] | None:
    """(stage, work) of a program's name, with or without the compiler's `jit_`; None for any other program."""
    found = _NAME.match(name)
    return (int(found[1]), found[2]) if found else None
