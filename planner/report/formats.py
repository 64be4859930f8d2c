"""The formats that pictures are drawn in; known without matplotlib, so that a wrong ending is refused before the work.

In: a path. Out: nothing, or an error.
"""

import os
from pathlib import Path

from planner.errors import PlannerError

FORMATS = (".png", ".svg", ".pdf")


def check_format(path: str | os.PathLike[str]) -> None:
    """Refuse an ending that is no picture format.

    Raises:
      PlannerError: it is not one of `FORMATS`.
    """
    place = Path(path)
    if place.suffix.lower() not in FORMATS:
        raise PlannerError(f"cannot draw {place.name!r}: its ending is no picture format",
                           f"use one of {', '.join(FORMATS)}")
