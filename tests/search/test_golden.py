"""The reference plans are as recorded; see `golden.py`."""

import json

from tests.search.golden import FILE, summaries


def test_plans_are_as_recorded():
    assert summaries() == json.loads(FILE.read_text()), "costs changed: if meant, run `python -m tests.search.golden`"
