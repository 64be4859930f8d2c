"""What a step tells of itself to other processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from planner.processes.standstill import JOINED, Progress, Report
from planner.runtime.together import Told


@pytest.fixture
def joined():
    progress = Progress()
    JOINED.set(progress)
    yield progress
    JOINED.set(None)


def told(seen):
    """A step that notes down where this process is, and fails if the batch says so."""
    def step(state, batch):
        seen.append(None if JOINED.get() is None else JOINED.get().report)
        if batch == "bad":
            raise ValueError(batch)
        return state, {"loss": jnp.ones(())}

    return Told(step, Mesh(np.array(jax.devices()[:1]), ("device",)))


def test_a_step_waits_for_its_programs_once_they_are_compiled(joined):
    seen = []
    step = told(seen)
    for _ in range(2):
        step(None, None)
        joined.settle()
    first, second = seen
    assert (first.step, first.waits) == (1, "") and (second.step, second.waits) == (2, "its programs to start")
    assert joined.report.waits == "" and joined.report.count > second.count


def test_a_step_that_fails_waits_no_longer(joined):
    step = told([])
    step(None, None)
    joined.settle()
    with pytest.raises(ValueError, match="bad"):
        step(None, "bad")
    assert joined.report.waits == ""


def test_nothing_is_told_in_a_run_of_one_process():
    seen = []
    told(seen)(None, None)
    assert seen == [None] and Progress().report == Report()
