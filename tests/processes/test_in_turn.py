"""Programs of many processes on CPU, started by the hundred."""

import jax
import numpy as np
from jax.sharding import Mesh

from planner.processes.in_turn import in_turn
from tests.processes.harness import Job


def test_a_process_that_is_ahead_of_another_does_not_hang():
    """Without waiting for each, this hung in every try: starts of later programs sat on threads of an older one."""
    for code, out, err in Job(2, 4, [], more={"sums": 500}).run():
        assert code == 0 and "summed" in out, err[-3000:]


def test_programs_of_one_process_are_left_as_they_are():
    program = jax.jit(lambda x: x + 1)
    assert in_turn(program, Mesh(np.array(jax.devices()), ("device",))) is program
