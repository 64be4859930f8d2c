"""The `planner` command line: parse, run one command, turn what happened into an exit code.

0: done. 1: a check failed, or a run under way. 2: the input is at fault (the message says how to mend it). 130: Ctrl-C
before a result.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from planner.cli.command import FAILED, INTERRUPTED, OK, WRONG_INPUT, Command, Output, fail
from planner.cli.commands import (
    cache,
    check,
    compare,
    explain,
    lists,
    measure,
    plan,
    plot,
    replan,
    rewrites,
    run,
    show,
    simulate,
    solve,
    sweep,
    verify,
)
from planner.errors import PlannerError, RunError
from planner.garbage import seldom_collected

COMMANDS: tuple[Command, ...] = (
    plan.COMMAND, replan.COMMAND, show.COMMAND, explain.COMMAND, plot.COMMAND, simulate.COMMAND, compare.COMMAND,
    run.COMMAND, sweep.COMMAND, check.COMMAND, verify.COMMAND, measure.COMMAND, solve.COMMAND, cache.COMMAND,
    rewrites.COMMAND, lists.MODELS, lists.CLUSTERS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of the process); returns the exit code."""
    arguments = parser().parse_args(argv)
    arguments.given = list(sys.argv[1:] if argv is None else argv)
    try:
        with seldom_collected():
            return arguments.command.run(arguments, Output())
    except PlannerError as error:
        fail(error)
        return FAILED if isinstance(error, RunError) else WRONG_INPUT
    except KeyboardInterrupt:
        fail(KeyboardInterrupt("interrupted before there was a result"))
        return INTERRUPTED
    except BrokenPipeError:  # `planner show p.json | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="planner", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Give it a JAX model and a device mesh, get the fastest way to run it there.",
        epilog="planner COMMAND --help shows the options of a command, with examples.\n\nexit codes: 0 done, 1 a check "
               "failed or a run that was under way, 2 wrong input, 130 interrupted before there was a result")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name, help=command.summary, description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add(sub)
        sub.set_defaults(command=command)
    return top
