"""`planner cache`: what is kept of earlier plans, and how to be rid of it."""

import argparse
from types import MappingProxyType

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.report import units
from planner.report.tables import Column, table_of

KINDS = MappingProxyType({"table": "costs of slices of layers on a mesh", "program": "traced programs",
                          "plan": "plans made again"})
"""Kinds of files, in words."""


def add(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which folder."""
    parser.add_argument("action", choices=("info", "clear"), help="info: what there is; clear: remove all of it")
    options.add_cache_folder(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON instead of a table")


def run(args: argparse.Namespace, out: Output) -> int:
    """Look, or remove."""
    cache = options.cache_folder(args, out)
    if args.action == "clear":
        freed = cache.clear()
        if args.json:
            out.json({"folder": str(cache.folder), "freed_bytes": freed})
        else:
            out.text(f"{units.size(freed)} removed from {cache.folder}")
        return OK
    found: dict[str, list[int]] = {}
    for entry in cache.entries():
        found.setdefault(entry.path.name.partition("-")[0], []).append(entry.bytes)
    if args.json:
        out.json({"folder": str(cache.folder), "limit_bytes": cache.limit_bytes,
                  "kinds": {kind: {"files": len(sizes), "bytes": sum(sizes)} for kind, sizes in found.items()}})
        return OK
    rows = [(KINDS.get(kind, kind), str(len(sizes)), units.size(sum(sizes))) for kind, sizes in sorted(found.items())]
    total = sum(map(sum, found.values()))
    rows.append((f"all, of {units.size(cache.limit_bytes)}", str(sum(map(len, found.values()))), units.size(total)))
    out.show(table_of(str(cache.folder), [Column("kind", number=False), Column("files"), Column("size")], rows))
    return OK


COMMAND = Command("cache", "show or clear what is kept of earlier plans to plan faster", (
    "planner cache info", "planner cache clear --cache-dir /scratch/planner"), add, run)
