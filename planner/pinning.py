"""Pins on named tensors, resolved against a program and a mesh: parameter paths and activation names to specs.

In: `Pins`, the program's index, axis names and sizes. Out: owner value -> `Spec`. Contradictions are errors that say
why.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from planner.core.graph import Role
from planner.core.pins import Pins
from planner.core.spec import Spec, is_legal
from planner.errors import PinError
from planner.program_index import ProgramIndex

UserSpec = tuple[str | tuple[str, ...] | None, ...]


def pinned_specs(index: ProgramIndex, pins: Pins, names: Sequence[str], mesh_shape: tuple[int, ...]) -> dict[int, Spec]:
    """Owner value -> pinned spec, for pinned parameters and activations.

    Raises:
      PinError: if a pin matches nothing, names an unknown mesh axis, or can't divide the tensor.
    """
    micro = index.program.micro
    found: dict[int, Spec] = {}
    for pattern, spec in pins.params:
        hits = [i for i in micro.inputs_of(Role.PARAM) if _matches(i.path, pattern)]
        if not hits:
            known = sorted({i.path for i in micro.inputs_of(Role.PARAM)})[:6]
            raise PinError(f"pin {pattern!r} matches no parameter", f"parameters are named like {', '.join(known)}")
        for inp in hits:
            found[inp.value] = resolve(spec, micro.values[inp.value].shape, names, mesh_shape, f"parameter {inp.path}")
    for name, spec in pins.activations:
        hits_v = [op.results[0] for op in index.program.forward.ops
                  if op.primitive == "name" and op.params.get("name") == name]
        named = [r for op in micro.ops if op.primitive == "name" and op.params.get("name") == name for r in op.results]
        if not hits_v or not named:
            raise PinError(f"pin {name!r} matches no named activation",
                           "name it in the model with jax.ad_checkpoint.checkpoint_name(x, name)")
        for value in named:
            own = index.owner.get(value, value)
            found[own] = resolve(spec, micro.values[own].shape, names, mesh_shape, f"activation {name}")
    return found


def _matches(path: str, pattern: str) -> bool:
    bare = path.removeprefix("params/")
    return (fnmatchcase(path, pattern) or fnmatchcase(bare, pattern)
            or fnmatchcase(bare, pattern.removeprefix("params/")))


def resolve(spec: UserSpec, shape: tuple[int, ...], names: Sequence[str], mesh_shape: tuple[int, ...], what: str
            ) -> Spec:
    """A user's PartitionSpec on named axes, as a `Spec` of this rank.

    Raises:
      PinError: unknown axis, too many dimensions, or sizes that don't divide.
    """
    if len(spec) > len(shape):
        raise PinError(f"pin on {what}: {len(spec)} entries for shape {shape}", "give at most one entry per dimension")
    out: list[tuple[int, ...]] = []
    for entry in (*spec, *(None,) * (len(shape) - len(spec))):
        wanted = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        for axis in wanted:
            if axis not in names:
                raise PinError(f"pin on {what}: mesh has no axis {axis!r}",
                               f"its axes are {', '.join(names) or 'none'}; pin them with mesh_axes=")
        out.append(tuple(names.index(axis) for axis in wanted))
    found = tuple(out)
    if not is_legal(found, shape, mesh_shape):
        mesh = dict(zip(names, mesh_shape, strict=True))
        raise PinError(f"pin on {what}: {spec} doesn't divide shape {shape} on mesh {mesh}",
                       "each dimension must divide by its axes' sizes, and an axis may appear once")
    return found
