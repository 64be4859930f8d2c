"""Options that several commands share: the model, where it runs, what is pinned."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.cli.pins import add_pins as add_pins
from planner.cli.pins import pins as pins
from planner.core.hardware import Cluster
from planner.errors import MeshError, PinError, PlannerError

if TYPE_CHECKING:
    import jax

    from planner.cache.store import Cache
    from planner.cli.command import Output
    from planner.model import Model

MODEL_HELP = "a name of the zoo (see `planner models`), or path.py:function or package.module:function, where the " \
             "function takes no arguments and returns a planner.Model"


def add_model(parser: argparse.ArgumentParser, *, option: bool = False) -> None:
    """The model and its size; `option`: as `--model`, which may be left out."""
    parser.add_argument("--model" if option else "model", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("model")
    group.add_argument("--batch", type=int, metavar="N", help="batch size (zoo: default 8 a device)")
    add_sizes(group)


def add_sizes(group: argparse._ArgumentGroup) -> None:
    """What of a zoo model may be chosen."""
    group.add_argument("--dtype", choices=("bfloat16", "float16", "float32"),
                       help="what a zoo model computes in (default bfloat16; V100s are fast in float16 only)")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                       help="change a size of a zoo model, e.g. --set layers=2 (may be repeated)")
    group.add_argument("--scan-layers", action="store_true", help="zoo: equal layers in one jax.lax.scan")
    group.add_argument("--inference", action="store_true", help="zoo: the forward function alone")


def add_place(parser: argparse.ArgumentParser, *, may_plan_only: bool = True) -> None:
    """Where it runs: a described cluster, or the devices of this machine."""
    group = parser.add_argument_group("where")
    if may_plan_only:
        group.add_argument("--cluster", metavar="NAME|FILE", help="plan for a cluster that need not be there: a name "
                           "(see `planner clusters`) or a profile file; several types: dgx-a100:2+dgx-h100:1x4, "
                           "or a file that lists its parts; "
                           "default: the devices of this machine")
        group.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the cluster (default 1)")
        group.add_argument("--devices-per-node", type=int, metavar="N", help="devices used of each node (default: all)")
        group.add_argument("--level", action="append", default=[], metavar="NAME=N:FACTOR", help="groups of so many "
                           "nodes, and how oversubscribed their links to each other are, the smallest first: rack=8:1, "
                           "pod=32:7 (may be repeated)")
    group.add_argument("--devices", type=int, metavar="N", help="that many virtual CPU devices on this machine; "
                       "default: the devices that JAX finds")
    group.add_argument("--hardware", metavar="NAME|FILE", help="profile of the devices of this machine; default: "
                       "measured at first use and kept")


def add_search(parser: argparse.ArgumentParser) -> None:
    """How long a search may take, and in how many processes."""
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop searching after about this long")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes to plan in (default: one per core where there "
                        "is enough to do); the plan is the same")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Whether, and where, what is solved is kept for next time."""
    group = parser.add_argument_group("cache (what was solved is kept: the plan is the same with it and without)")
    group.add_argument("--no-cache", action="store_true", help="neither read nor keep anything")
    add_cache_folder(group)


def add_cache_folder(group: argparse._ActionsContainer) -> None:
    """Which folder, and how large it may get."""
    group.add_argument("--cache-dir", metavar="FOLDER", help="default: ~/.cache/planner/frontiers")
    group.add_argument("--cache-limit", type=float, metavar="GB", help="what was not used for longest goes when the "
                       "folder is larger (default 4)")


def add_under_plan(parser: argparse.ArgumentParser, *, verb: str, steps: int) -> None:
    """What `run` and `check` share: model, devices, pins, a plan or the search for one, how many steps."""
    add_model(parser)
    add_place(parser, may_plan_only=False)
    add_pins(parser)
    parser.add_argument("--plan", metavar="FILE", help=f"{verb} this plan; default: plan now, with the pins above")
    add_search(parser)
    add_cache(parser)
    parser.add_argument("--steps", type=int, default=steps, metavar="N", help=f"training steps (default {steps})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of parameters and batches (default 0)")


def check_writable(*paths: str | None) -> None:
    """Refuse a file that could not be written, before the work that would be lost.

    Raises:
      PlannerError: its folder is not there, or it is a folder.
    """
    for path in paths:
        if path is not None and (not Path(path).parent.is_dir() or Path(path).is_dir()):
            why = "it is a folder" if Path(path).is_dir() else f"there is no folder {Path(path).parent}"
            raise PlannerError(f"cannot write {path}: {why}", "give a file in a folder that is there")


def check_steps(args: argparse.Namespace) -> None:
    """Refuse a run of no steps.

    Raises:
      PlannerError: fewer than one step.
    """
    if args.steps < 1:
        raise PlannerError(f"--steps {args.steps} leaves nothing to do", "give at least one step")


def place(args: argparse.Namespace) -> "Cluster | list[jax.Device]":
    """The described cluster, or the devices of this machine. Call it before anything else touches JAX's devices."""
    if getattr(args, "cluster", None):
        if args.devices is not None:
            raise MeshError("--cluster and --devices are both given",
                            "keep --cluster to plan only, --devices to run here")
        return profile(args.cluster, args.nodes, args.devices_per_node, _levels(getattr(args, "level", [])))
    return devices(args)


def devices(args: argparse.Namespace) -> "list[jax.Device]":
    """The devices of this machine, or as many virtual CPU devices as asked for."""
    import jax

    if args.devices is not None:
        if args.devices < 1:
            raise MeshError(f"--devices {args.devices} leaves nothing to run on", "give at least one")
        jax.config.update("jax_platforms", "cpu")
        try:
            jax.config.update("jax_num_cpu_devices", args.devices)
        except RuntimeError as fault:  # JAX has started in this process already: take what is there
            if len(jax.devices()) < args.devices:
                raise MeshError(f"this process has {len(jax.devices())} devices already, not {args.devices}",
                                "start `planner` in a process of its own") from fault
        return jax.devices()[:args.devices]
    return jax.devices()


def hardware(args: argparse.Namespace, found: "Cluster | list[jax.Device]") -> Cluster | None:
    """The profile given for the devices of this machine, of as many devices as there are."""
    if args.hardware is None or isinstance(found, Cluster):
        return None
    from planner import profiles

    whole = profiles.cluster(args.hardware)
    return whole if whole.parts else profile(args.hardware, 1, len(found))


def profile(name: str, nodes: int, devices_per_node: int | None,
            levels: Mapping[str, tuple[int, float]] | None = None) -> Cluster:
    """A cluster by profile name or file."""
    from planner import profiles

    return profiles.cluster(name, nodes=nodes, devices_per_node=devices_per_node, levels=levels)


def _levels(texts: list[str]) -> dict[str, tuple[int, float]] | None:
    """Levels of the network as they were given; None where none was: those of the profile."""
    found: dict[str, tuple[int, float]] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        nodes, _, factor = rest.partition(":")
        try:
            found[name] = int(nodes), float(factor or 1)
        except ValueError as fault:
            raise MeshError(f"--level {text}", "give a name, nodes and a factor, e.g. pod=32:7") from fault
    return found or None


def model(args: argparse.Namespace, device_count: int) -> "Model":
    """The model named on the command line."""
    from planner.cli.models import load

    return load(args.model, batch=args.batch, device_count=device_count, settings=settings(args))


def cache(args: argparse.Namespace, out: "Output") -> "Cache | bool":
    """The cache that the command line asks for; False for none."""
    return False if args.no_cache else cache_folder(args, out)


def cache_folder(args: argparse.Namespace, out: "Output") -> "Cache":
    """The cache in the folder given, or the user's own."""
    from planner.cache.store import LIMIT_BYTES, Cache, default_folder

    limit = LIMIT_BYTES if args.cache_limit is None else int(args.cache_limit * 1e9)
    folder = default_folder() if args.cache_dir is None else Path(args.cache_dir)
    return Cache(folder, limit, out.note)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was chosen of a zoo model."""
    found: dict[str, Any] = {}
    if args.dtype:
        found["dtype"] = args.dtype
    if args.scan_layers:
        found["scan_layers"] = True
    if args.inference:
        found["inference"] = True
    return found | sizes(args.set)


def sizes(given: list[str]) -> dict[str, Any]:
    """What `--set` says. Raises `PinError` where one has no value."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise PinError(f"--set {text!r} has no value", "write KEY=VALUE, e.g. --set layers=2")
        found[key.strip()] = _value(value.strip())
    return found


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
