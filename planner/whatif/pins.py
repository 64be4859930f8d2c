"""What a plan's makers had fixed, read back from its record, so that planning again fixes it again.

In: a `PlanRecord`, whose pins are text (`Pins.describe`). Out: `Pins`.
"""

import ast
from dataclasses import fields
from typing import Any

from planner.core.pins import Pins
from planner.core.plan import PlanRecord


def pins_of(record: PlanRecord) -> Pins:
    """The pins that the plan was made with."""
    known = {f.name for f in fields(Pins)}
    return Pins(**{name: _value(text) for name, text in record.pins if name in known})


def _value(text: str) -> Any:
    """What `str` was taken of: a number, a tuple, a boolean, or a word, which is itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
