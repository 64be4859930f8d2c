"""The annotations alone, for users who keep their own `jit`: their function with sharding constraints, and
`in_shardings`.

In: a `PlanRecord` of one stage and the model. Out: a JAX function, and pytrees of `NamedSharding`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from planner.core.graph import Graph, Input, Phase, Program, Role
from planner.core.plan import PlanRecord, StagePlan
from planner.core.spec import Spec, replicated
from planner.emit.match import matching_program
from planner.emit.meshes import sharding, stage_mesh
from planner.emit.micro import by_role, state_in_order
from planner.emit.tasks import Constraints, run_code
from planner.errors import MeshError, PlanMismatchError
from planner.model import Model, leaves_with_paths
from planner.trace import ProgramTrees, program_trees, split_leaves


def annotate(record: PlanRecord, model: Model, mesh: Mesh | None = None) -> Callable[..., Any]:
    """The model's function with the plan's shardings written into it.

    Args:
      record: a plan of one stage.
      model: the model it was made for.
      mesh: the mesh to write into the constraints. Without it, the function must be traced under `jax.set_mesh(mesh)`
        with the plan's axis names.

    Returns:
      A function with the arguments and results of `model.fn`, of one microbatch; it may be differentiated and jitted.

    Raises:
      PlanMismatchError: several stages (no single function has them all), or another model.
    """
    stage = _only_stage(record, "annotate")
    program = matching_program(record, model)
    graph, trees = program.forward, program_trees(model, record.microbatches)
    uses = _forward_uses(stage, program)
    own = None if mesh is None else logical_mesh(stage, mesh)

    def annotated(*args: Any) -> Any:
        constraints = Constraints(_context_mesh(stage) if own is None else own, dict(stage.specs), uses)
        env: dict[int, Any] = dict(graph.constants)
        for role, arg in zip(_argument_roles(model), args, strict=True):
            places = tuple(graph.inputs_of(role))
            env |= {i.value: x for i, x in zip(places, split_leaves(arg, places), strict=True)}
        run_code(graph, range(len(graph.ops)), env, constraints)
        return _results(graph, model, trees, env)

    return annotated


def in_shardings(record: PlanRecord, model: Model, mesh: Mesh | Sequence[Any]) -> tuple[Any, ...]:
    """Shardings of the arguments of `model.fn`, in order, as `jax.jit(..., in_shardings=...)` takes them.

    Args:
      record: a plan of one stage.
      model: the model it was made for.
      mesh: devices in the order of the plan; a mesh with the plan's own axes is used as it is.

    Returns:
      One pytree of `NamedSharding` per argument. A leaf stacked over layers is sharded as its rows are, if all are
      alike, and whole otherwise.
    """
    stage = _only_stage(record, "in_shardings")
    program = matching_program(record, model)
    own = logical_mesh(stage, mesh)
    specs = dict(stage.specs) | {p.value: p.spec for p in record.params}
    parts = {Role.PARAM: model.params, Role.STATE: model.state, Role.BATCH: model.batch}
    found = []
    for role in _argument_roles(model):
        by_path: dict[str, list[Spec]] = {}
        for i in program.forward.inputs_of(role):
            by_path.setdefault(i.path, []).append(_whole_spec(i, specs, program.forward))
        leaves = [sharding(own, s[0] if len(set(s)) == 1 else replicated(len(s[0])))
                  for s in (by_path[path] for path, _ in leaves_with_paths(parts[role]))]
        found.append(jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(parts[role]), leaves))
    return tuple(found)


def logical_mesh(stage: StagePlan, mesh: Mesh | Sequence[Any]) -> Mesh:
    """The plan's mesh over the devices of another one.

    Raises:
      MeshError: the number of devices differs.
    """
    if isinstance(mesh, Mesh) and mesh.axis_names == stage.mesh_axes and mesh.devices.shape == stage.mesh_shape:
        return mesh
    devices = list(mesh.devices.flat) if isinstance(mesh, Mesh) else list(mesh)
    if len(devices) != len(stage.devices):
        raise MeshError(f"the plan is for {len(stage.devices)} devices, the mesh has {len(devices)}",
                        "give a mesh of the planned size, or plan for this one")
    return stage_mesh(stage, devices)


def _only_stage(record: PlanRecord, what: str) -> StagePlan:
    if len(record.stages) != 1:
        raise PlanMismatchError(f"{what} needs a plan of one stage; this one has {len(record.stages)}",
                                "plan with pins Pins(stages=1), or run this plan with compile")
    return record.stages[0]


def _argument_roles(model: Model) -> tuple[Role, ...]:
    if model.kind == "step":
        return Role.STATE, Role.BATCH
    return (Role.PARAM, Role.BATCH) if model.state is None else (Role.PARAM, Role.STATE, Role.BATCH)


def _forward_uses(stage: StagePlan, program: Program) -> dict[tuple[int, int], Spec]:
    """The plan's uses, for operators that are the same before and after differentiation."""
    found: dict[tuple[int, int], Spec] = {}
    for n, position, spec in stage.uses:
        op = program.micro.ops[n]
        if op.phase is Phase.FORWARD and op.origin >= 0:
            before = program.forward.ops[op.origin]
            if (before.primitive, before.operands) == (op.primitive, op.operands):
                found[op.origin, position] = spec
    return found


def _context_mesh(stage: StagePlan) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.axis_names != (stage.mesh_axes or mesh.axis_names):
        raise MeshError(f"the annotated function is traced under the mesh {mesh.axis_names}, the plan's axes are "
                        f"{stage.mesh_axes}",
                        "trace it under jax.set_mesh(mesh) with these axes, or annotate with mesh=...")
    return mesh


def _whole_spec(place: Input, specs: dict[int, Spec], graph: Graph) -> Spec:
    """The spec of an input as the user holds it: a row's leaf has the rows in front."""
    spec = specs.get(place.value, replicated(len(graph.values[place.value].shape)))
    return spec if place.row is None else ((), *spec)


def _results(graph: Graph, model: Model, trees: ProgramTrees, env: dict[int, Any]) -> Any:
    aux = jax.tree_util.tree_unflatten(trees.aux, by_role(graph, Role.AUX, env))
    state = jax.tree_util.tree_unflatten(trees.state, state_in_order(graph, env)) if model.state is not None else None
    if model.kind == "step":
        return state, aux
    if model.kind == "inference":
        return aux if model.state is None else (aux, state)
    loss = by_role(graph, Role.LOSS, env)[0]
    parts = (loss,) if state is None else (loss, state)
    has_aux = trees.aux != jax.tree_util.tree_structure(None)
    return (*parts, aux) if has_aux else parts[0] if state is None else parts
