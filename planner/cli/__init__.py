"""The `planner` command: argument parsing and printing. What it does is done by the library."""

from planner.cli.main import main as main
