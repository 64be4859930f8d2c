"""What a subcommand is, and what it writes with."""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from planner.report import units
from planner.report.tables import plain

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: success; a check, or a run under way, failed; the input is at fault; Ctrl-C before there was a
result (128 + SIGINT)."""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      name: what the user types.
      summary: one line for the list of commands.
      examples: command lines shown under `--help`.
      add: adds the arguments to its parser.
      run: does it; returns the exit code. Heavy libraries are imported inside, so that `--help` is quick.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, "Output"], int]


@dataclass(frozen=True)
class Output:
    """Results go to standard output, everything else to standard error."""

    out: Console = field(default_factory=lambda: Console(highlight=False, emoji=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, emoji=False))

    def show(self, *content: RenderableType) -> None:
        """Print tables: coloured and as wide as the terminal, or plain text of 100 columns where there is none."""
        for part in content:
            if self.out.is_terminal:
                self.out.print(part, markup=False)
            else:
                self.text(plain(part, 100))

    def text(self, line: str) -> None:
        """Print text as it is, at once."""
        print(line, file=self.out.file, flush=True)

    def json(self, value: Any, indent: int | None = 1) -> None:
        """Print a value as JSON, which knows no NaN and no infinity: null."""
        self.text(json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False))

    def note(self, line: str) -> None:
        """Say something on standard error."""
        self.err.print(line, markup=False, style="dim", soft_wrap=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[..., None]]:
        """A line in the terminal that shows how long work goes on; silent where standard error is no terminal.

        Yields a function that takes the news: a text, and perhaps the part that is done.
        """
        if not self.err.is_terminal:
            yield lambda text, share=None: None
            return
        with self.err.status(what) as status:
            def tell(text: str, share: float | None = None) -> None:
                status.update(f"{what}: {text}" + ("" if share is None else f" ({100 * share:.0f} %)"))

            yield tell

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[str, float], None]]:
        """A bar in the terminal with what is being done, the share that is done and an estimate of what remains; silent
        where standard error is no terminal.

        Yields a function that takes the news: a text, and the share that is done.
        """
        if not self.err.is_terminal:
            yield lambda text, share: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TextColumn("{task.fields[left]}"))
        start = time.perf_counter()
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(what, total=1.0, left="")

            def tell(text: str, share: float) -> None:
                bar.update(task, completed=share, description=f"{what}: {text}",
                           left=remaining(time.perf_counter() - start, share))

            yield tell


def _finite(value: Any) -> Any:
    """The same with None for every number that is none."""
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Nowhere(io.StringIO):
    """A file that forgets what is written."""

    def write(self, text: str, /) -> int:
        """Nothing."""
        return len(text)


SILENT = Output(Console(file=_Nowhere()), Console(file=_Nowhere()))
"""For processes whose results another one prints."""


def remaining(elapsed_s: float, share: float) -> str:
    """How long the rest takes if it goes on as fast: `"about 85 s left"`; nothing before there is anything to tell."""
    if share <= 0.01:
        return ""
    return f"about {units.whole_seconds(elapsed_s * (1 / share - 1))} left"


def fail(error: BaseException) -> None:
    """Report an error that is the user's to mend, on standard error, without a traceback."""
    print(f"error: {error}", file=sys.stderr)
