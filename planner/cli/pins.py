"""What is pinned on the command line: its options, and how they are read."""

import argparse

from planner.core.pins import Pins
from planner.errors import PinError


def add_pins(parser: argparse.ArgumentParser) -> None:
    """What is fixed; the rest is planned around it."""
    group = parser.add_argument_group("pins (what you fix; the rest is planned around it)")
    group.add_argument("--stages", type=int, metavar="N", help="number of pipeline stages")
    group.add_argument("--boundaries", metavar="I,J,...", help="first layer of each stage after the first: 4,8")
    group.add_argument("--mesh", metavar="NAME=N,...", help="logical mesh of every stage: data=4,model=2")
    group.add_argument("--microbatches", type=int, metavar="N", help="number of microbatches")
    group.add_argument("--schedule", metavar="NAME", help="pipeline schedule: 1f1b, gpipe, zb-h1, interleaved, zb-v")
    group.add_argument("--chunks", type=int, metavar="N", help="stages per group of devices, under a schedule that "
                       "gives them several (interleaved, zb-v)")
    group.add_argument("--recompute", nargs="?", const="all", choices=("auto", "none", "selected", "all"),
                       help="of every layer, recompute nothing, selected tensors, or all (default without a word)")
    group.add_argument("--no-recompute", dest="recompute", action="store_const", const="none",
                       help="the same as --recompute none")
    group.add_argument("--offload", choices=("auto", "none", "optimizer", "activations"),
                       help="keep all optimizer state, or all activations of stages, in host memory; auto: what is "
                       "fastest; default: what has to be, where nothing fits without")
    group.add_argument("--replicas", type=int, metavar="N", help="on several types of devices, replicas of the whole "
                       "pipeline, each on a type with its share of the batch (1: none; default: where that is fastest)")
    group.add_argument("--recipe", choices=("data", "zero-1", "zero-2", "fsdp", "tensor", "none"),
                       help="keep to a standard recipe")
    group.add_argument("--pin", action="append", default=[], metavar="PATH=SPEC",
                       help="sharding of parameters, per dimension: 'params/**/wq=None,model', 'embed=data+model,None'")
    group.add_argument("--pin-activation", action="append", default=[], metavar="NAME=SPEC",
                       help="sharding of an activation named by jax.ad_checkpoint.checkpoint_name")
    group.add_argument("--rewrite", choices=("joint", "first", "none"),
                       help="rewrite the graph where that makes the plan faster or the model fit (joint), or where it "
                       "is faster on one device, before sharding (first, a baseline); default none")
    group.add_argument("--allow", action="append", default=[], metavar="RULE",
                       help="use only these rewrites ('*': all; default: all that assume nothing)")
    group.add_argument("--forbid", action="append", default=[], metavar="RULE", help="do not use this rewrite")
    group.add_argument("--apply", action="append", default=[], metavar="RULE@WHERE",
                       help="apply this rewrite, as plans name it, and no others; may be repeated, in order")


def pins(args: argparse.Namespace) -> Pins:
    """The pins on the command line. Raises `PinError` where one cannot be read."""
    return Pins(
        stages=args.stages, boundaries=_numbers(args.boundaries), mesh_axes=_mesh(args.mesh),
        microbatches=args.microbatches, schedule=args.schedule, chunks=args.chunks, recompute=args.recompute,
        recipe=args.recipe, offload=args.offload, replicas=args.replicas,
        params=tuple(_spec(text) for text in args.pin),
        activations=tuple(_spec(text) for text in args.pin_activation), rewrite=args.rewrite,
        allow=tuple(args.allow), forbid=tuple(args.forbid), rewrites=tuple(_rewriting(text) for text in args.apply))


def _rewriting(text: str) -> tuple[str, str]:
    """`"fuse_matmuls@layers/*/wq, layers/*/wk"`, read."""
    rule, at, where = text.partition("@")
    if not at:
        raise PinError(f"--apply {text!r} does not say where", "give RULE@WHERE, as `planner explain` lists them")
    return rule.strip(), where.strip()


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as fault:
        raise PinError(f"--boundaries {text!r} is not a list of numbers", "write 4,8") from fault


def _mesh(text: str | None) -> tuple[tuple[str, int], ...] | None:
    if text is None:
        return None
    axes = []
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise PinError(f"--mesh {text!r}: {part!r} is not NAME=SIZE", "write data=4,model=2")
        axes.append((name, int(size)))
    return tuple(axes)


def _spec(text: str) -> tuple[str, tuple[str | tuple[str, ...] | None, ...]]:
    name, equals, spec = text.rpartition("=")
    if not equals or not name:
        raise PinError(f"pin {text!r} is not NAME=SPEC", "write 'params/**/wq=None,model'")
    return name, tuple(_axes(part.strip()) for part in spec.split(",")) if spec.strip() else ()


def _axes(text: str) -> str | tuple[str, ...] | None:
    if text in ("", "None", "-"):
        return None
    return tuple(part.strip() for part in text.split("+")) if "+" in text else text
