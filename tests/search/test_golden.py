"""The reference plans are as recorded; see `golden.py`."""

import json

import jax
import pytest

from tests.search.golden import FILE, summaries


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="recorded under JAX 0.10: gradients of 0.11 have operators"
                    " of their own")
def test_plans_are_as_recorded():
    assert summaries() == json.loads(FILE.read_text()), "costs changed: if meant, run `python -m tests.search.golden`"
