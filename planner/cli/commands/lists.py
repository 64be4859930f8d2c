"""`planner models` and `planner clusters`: what there is by name."""

import argparse

from planner.cli.command import OK, Command, Output
from planner.report import machine
from planner.report.tables import Column, table_of


def add(parser: argparse.ArgumentParser) -> None:
    """How to print."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Perhaps one cluster."""
    parser.add_argument("name", nargs="?", metavar="NAME|FILE", help="one cluster, or parts joined by a plus, with the "
                        "source of each number")
    add(parser)


def models(args: argparse.Namespace, out: Output) -> int:
    """Print the zoo."""
    from planner import models as zoo
    from planner.report import units

    counts = [(name, zoo.build(name, batch_size=1).parameter_count) for name in zoo.names()]
    sizes = dict(sorted(counts, key=lambda row: (row[0].partition("-")[0], row[1])))
    if args.json:
        out.json([{"name": name, "parameters": count} for name, count in sizes.items()])
    else:
        rows = [(name, units.scaled(count, "").rstrip()) for name, count in sizes.items()]
        out.show(table_of("model zoo", [Column("name", number=False), Column("parameters")], rows))
    return OK


def clusters(args: argparse.Namespace, out: Output) -> int:
    """Print all profiles in a list, or one with its sources."""
    from planner import profiles

    found = [profiles.cluster(name) for name in ([args.name] if args.name else profiles.profile_names())]
    if args.json:
        out.json([machine.as_data(c) for c in found])
    else:
        out.show(*(machine.tables(found[0]) if args.name else [machine.listing(found)]))
    return OK


MODELS = Command("models", "list the models that can be planned by name", ("planner models",), add, models)
CLUSTERS = Command("clusters", "list the clusters that can be planned for by name", (
    "planner clusters", "planner clusters dgx-a100", "planner clusters my-two-types.json"), add_cluster, clusters)
