"""The step of a plan of several replicas: each computes its rows of the batch, then gradients are added up.

Replicas are steps of their own, whose gradients are taken before the update (`Replica`). Their programs are started one
replica after the other, which waits for none of them. Every replica gets the gradients of all others, adds them up in
the same order and updates its own copy of parameters and optimizer state: copies stay equal, bit for bit where devices
compute alike.

In: plans of replicas with their steps. Out: `ReplicatedStep`, a step as `compile_plan` tells; models of shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from planner.core.plan import PlanRecord
from planner.emit.meshes import sharding
from planner.errors import PlanMismatchError
from planner.model import Model, abstract, leaves_with_paths
from planner.runtime.batches import batch_leaves, checked_batch, examples_of
from planner.runtime.pipeline import PipelineStep
from planner.runtime.placement import Placement, put
from planner.runtime.single import SingleStep
from planner.runtime.stage_program import stage_program
from planner.runtime.state import RunState
from planner.runtime.transfer import Transfers


@dataclass(frozen=True)
class Replica:
    """One of them: its plan, its step, and where everything lies."""

    record: PlanRecord
    step: SingleStep | PipelineStep
    placed: Placement


def model_of_share(record: PlanRecord, model: Model, replica: int) -> Model:
    """The model with the rows of the batch that a replica gets; its arrays are abstract."""
    share = record.replicas[replica]
    leaves = batch_leaves(model, record.microbatches)
    rows = [jax.ShapeDtypeStruct((x.shape[0] // record.microbatches * share.microbatches, *x.shape[1:])
                                 if leaf.split else x.shape, x.dtype)
            for leaf, (_, x) in zip(leaves, leaves_with_paths(abstract(model.batch)), strict=True)]
    tree = jax.tree_util.tree_structure(abstract(model.batch))
    return replace(model, batch=jax.tree_util.tree_unflatten(tree, rows))


class ReplicatedStep:
    """`(RunState, batch) -> (RunState, outputs)`. The state is that of the first replica, with copies for the others;
    `warnings` says what is not run as planned."""

    def __init__(self, record: PlanRecord, model: Model, replicas: Sequence[Replica], aux_tree: Any) -> None:
        self._record, self._model, self._replicas, self._aux_tree = record, model, tuple(replicas), aux_tree
        self.warnings = tuple(dict.fromkeys(w for r in replicas for w in r.step.warnings))
        self._leaves = batch_leaves(model, record.microbatches)
        meshes = [mesh for r in replicas for mesh in r.placed.meshes]
        self._transfers = Transfers(meshes)
        if not self._transfers.one_process:
            raise PlanMismatchError("replicas on several types of devices run in one process alone",
                                    "give devices of one process, or plan with replicas=1")
        shares = [r.record.microbatches / record.microbatches for r in replicas]
        self._weights = shares if model.loss_reduction == "mean" else [1.0] * len(replicas)
        self._add = [[stage_program(self._added, mesh, "gradient_shares", out_shardings=self._lie(r, s))
                      for s, mesh in enumerate(r.placed.meshes)] for r in replicas]
        self._combine = stage_program(self._combined, replicas[0].placed.meshes[-1], "outputs")

    def __call__(self, state: RunState, batch: Any) -> Any:
        """One step. It takes over the buffers of `state`."""
        states, batches = (replace(state, copies=()), *state.copies), self._shared(batch)
        parts = [r.step.gradients(s, b) for r, s, b in zip(self._replicas, states, batches, strict=True)]
        ends: list[RunState] = []
        for n, (replica, own) in enumerate(zip(self._replicas, states, strict=True)):
            params, opt = replica.step.updated(own, self._summed(n, [p.grads for p in parts]))
            ends.append(RunState(params, opt, parts[n].state, own.layout))
        return replace(ends[0], copies=tuple(ends[1:])), self._outputs([p.outputs for p in parts])

    def spread(self, state: RunState) -> RunState:
        """A state of the first replica with copies for the others."""
        copies: list[RunState] = []
        for r in self._replicas[1:]:
            placed = r.placed
            leaves = [tuple(put(given, placed.shardings(places))) for given, places in (
                (state.param_leaves, placed.params), (state.opt_leaves, placed.opt_state),
                (state.state_leaves, placed.state))]
            copies.append(RunState(leaves[0], leaves[1], leaves[2], placed.layout))
        return replace(state, copies=tuple(copies))

    def _shared(self, batch: Any) -> list[Any]:
        """The rows of each replica, one after the other."""
        arrays, tree = checked_batch(self._leaves, batch), jax.tree_util.tree_structure(batch)
        found, first = list[Any](), 0
        for r in self._replicas:
            after = first + r.record.microbatches
            rows = [x[len(x) // self._record.microbatches * first:len(x) // self._record.microbatches * after]
                    if leaf.split else x for leaf, x in zip(self._leaves, arrays, strict=True)]
            found.append(jax.tree_util.tree_unflatten(tree, rows))
            first = after
        return found

    def _lie(self, replica: Replica, stage: int) -> list[NamedSharding]:
        """How gradients of a stage's parameters lie for the update."""
        mesh = replica.placed.meshes[stage]
        return [sharding(mesh, p.update_spec) for p in replica.record.params if p.home == stage]

    def _summed(self, replica: int, grads: Sequence[Sequence[Any]]) -> list[Any]:
        """Gradients of all replicas added up on one, in the order of its parameters."""
        mine, found = self._replicas[replica], dict[int, Any]()
        for stage in range(len(mine.record.stages)):
            places = [n for n, p in enumerate(mine.record.params) if p.home == stage]
            if not places:
                continue
            wanted = self._lie(mine, stage)
            here = [self._transfers.send([given[n] for n in places],
                                         [self._lies(r, n) for n in places], wanted) if r != replica else
                    [given[n] for n in places] for r, given in enumerate(grads)]
            found.update(zip(places, self._add[replica][stage](here), strict=True))
        return [found[n] for n in range(len(mine.record.params))]

    def _lies(self, replica: int, param: int) -> NamedSharding:
        placed, p = self._replicas[replica].placed, self._replicas[replica].record.params[param]
        return sharding(placed.meshes[p.home], p.update_spec)

    def _added(self, parts: Sequence[Sequence[Any]]) -> list[Any]:
        """[replica][parameter] -> sums, in float32 at least."""
        return [self._weighed([x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in xs]).astype(xs[0].dtype)
                for xs in zip(*parts, strict=True)]

    def _weighed(self, parts: Sequence[Any]) -> Any:
        """One array of each replica, added up as its share weighs in what the model makes of its batch."""
        total = self._weights[0] * parts[0]
        for weight, x in zip(self._weights[1:], parts[1:], strict=True):
            total = total + weight * x
        return total

    def _outputs(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Loss and other outputs of the whole batch, on the devices of the first replica."""
        flat = [(part["loss"], jax.tree_util.tree_leaves(part["aux"])) for part in parts]
        where = NamedSharding(self._replicas[0].placed.meshes[-1], PartitionSpec())
        moved = [self._transfers.place([loss, *aux], [where] * (1 + len(aux))) for loss, aux in flat]
        loss, *aux = self._combine(moved)
        return {"loss": loss, "aux": jax.tree_util.tree_unflatten(self._aux_tree, aux)}

    def _combined(self, parts: Sequence[Sequence[Any]]) -> list[Any]:
        """[replica][output]: as `batches.combined` would of all microbatches."""
        counts = [r.record.microbatches for r in self._replicas]
        examples, whole = examples_of(self._leaves, self._record.microbatches), self._record.microbatches
        found = [self._weighed([part[0] for part in parts])]
        for xs in zip(*(part[1:] for part in parts), strict=True):
            if all(x.ndim and x.shape[0] == count * examples for x, count in zip(xs, counts, strict=True)):
                found.append(jnp.concatenate(xs))
            elif jnp.issubdtype(xs[0].dtype, jnp.inexact):
                mean = jnp.stack([x * (count / whole) for x, count in zip(xs, counts, strict=True)]).sum(0)
                found.append(mean.astype(xs[0].dtype))
            else:
                found.append(jnp.stack(xs).sum(0) if jnp.issubdtype(xs[0].dtype, jnp.integer) else xs[-1])
        return found
