"""What each stage of a plan has to do, in seconds: the input of the event simulation.

A record that has the times of each layer gives them; of one that has not, a stage is one piece, split into forward and
backward by FLOPs.

In: a `PlanRecord`. Out: `StageWork`s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from planner.core.plan import GATHER_OF, GRADIENT_OF, Collective, LayerTime, MemoryParts, PlanRecord, StagePlan
from planner.costs.transfer import hand_over_s
from planner.schedules import SCHEDULES


@dataclass(frozen=True)
class StageWork:
    """One stage.

    Attributes:
      pieces: its layers (or the whole stage as one piece), in order, per microbatch.
      update_s: the update, once at the end.
      call_s: starting the forward or the backward program of a microbatch.
      receive_s: taking in the activations of a microbatch, or sending its cotangents back; the stage is busy with it.
      link_s: the part of such a hand-over that keeps nobody busy.
      memory: of one device, at its peak.
      in_flight, waiting: microbatches whose activations are in `memory`; of the latter, only what their weight
        gradients read.
      waiting_bytes: what a microbatch leaves between input and weight gradient; None: all its activations.
      first_layer: the layer that `pieces[0]` is; None where pieces aren't layers.
    """

    pieces: tuple[LayerTime, ...]
    update_s: float = 0.0
    call_s: float = 0.0
    receive_s: float = 0.0
    link_s: float = 0.0
    memory: MemoryParts = field(default_factory=MemoryParts)
    in_flight: int = 1
    first_layer: int | None = None
    waiting: int = 0
    waiting_bytes: int | None = None

    @property
    def microbatch_bytes(self) -> float:
        """Activations of one microbatch in flight."""
        held = self.memory.activations_bytes
        if self.waiting_bytes is None:
            return held / max(1, self.in_flight + self.waiting)
        return max(0, held - self.waiting * self.waiting_bytes) / max(1, self.in_flight)

    @property
    def left_bytes(self) -> float:
        """What a microbatch leaves between input and weight gradient."""
        return self.microbatch_bytes if self.waiting_bytes is None else self.waiting_bytes


def uniform(forward_s: float, backward_s: float, weight_s: float = 0.0, *, batch_s: float = 0.0, receive_s: float = 0.0,
            link_s: float = 0.0) -> StageWork:
    """A stage of one piece without communication of its own; `weight_s` is part of `backward_s`."""
    piece = LayerTime(forward_s=forward_s, backward_s=backward_s, weight_s=weight_s)
    return StageWork((piece,), batch_s, 0.0, receive_s, link_s)


def faster(work: StageWork, times: float) -> StageWork:
    """The same work, done that many times faster."""
    pieces = tuple(LayerTime(**{f.name: getattr(p, f.name) / times for f in fields(p)}) for p in work.pieces)
    return replace(work, pieces=pieces, update_s=work.update_s / times, call_s=work.call_s / times,
                   receive_s=work.receive_s / times, link_s=work.link_s / times)


def stage_works(record: PlanRecord) -> tuple[StageWork, ...]:
    """The work of every stage of a plan."""
    trains = SCHEDULES[record.schedule].trains
    return tuple(_stage_work(record, stage, trains=trains) for stage in record.stages)


def forward_share(record: PlanRecord, stage: StagePlan) -> float:
    """Part of a stage's arithmetic under training that is its forward, by FLOPs (1/3 where matrix products rule).

    The record has the forward FLOPs of every layer and those of the whole step; forward to backward is as in the whole,
    the update counted with the backward, and recomputed layers add their forward to the backward (what layers with
    selected activations make again is not known by FLOPs, of which it has few).
    """
    whole = record.microbatches * sum(layer.flops for layer in record.layers)
    mine = sum(layer.flops for layer in record.layers[slice(*stage.layers)])
    if not whole or not mine:
        return 1 / 3  # nothing is known: a backward multiplies twice where the forward multiplies once
    again = sum(record.layers[n].flops for n in stage.recompute) / mine
    return 1 / (max(record.model_flops / whole, 1.0) + again)


def _stage_work(record: PlanRecord, stage: StagePlan, *, trains: bool) -> StageWork:
    ways = 2 if trains else 1
    first = stage.layers[0]
    before = record.stages[stage.index - 1].devices if first > 0 else stage.devices
    carried = 0.0 if before == stage.devices else min(stage.send_s / ways, hand_over_s(
        record.layers[first - 1].crossing_bytes, before, stage.devices, record.cluster))
    call = stage.send_s / ways - carried + stage.time.host_s / ways
    hidden = record.cluster.overlap.hand_over * carried if record.cluster.overlap else 0.0
    pieces = stage.layer_times or (_whole(record, stage, trains=trains),)
    if not trains:
        pieces = tuple(_forward_only(p) for p in pieces)
    update = stage.time.update_s + stage.time.host_batch_s
    return StageWork(pieces, update, call, carried - hidden, hidden, stage.memory, stage.in_flight,
                     stage.layers[0] if stage.layer_times else None, stage.waiting, stage.waiting_bytes or None)


def _whole(record: PlanRecord, stage: StagePlan, *, trains: bool) -> LayerTime:
    """A stage as one piece. What its list of communications leaves open is waited for, in the backward."""
    time = stage.time
    share = forward_share(record, stage) if trains else 1.0
    often = [c for c in stage.collectives if c.per == "microbatch"]
    left = time.collective_s + time.reshard_s

    def take(found: Sequence[Collective]) -> float:
        nonlocal left
        taken = min(left, sum(c.time_s for c in found))
        left -= taken
        return taken

    gathers = [c for c in often if c.where.startswith(GATHER_OF)]
    syncs = take([c for c in often if c.where.startswith(GRADIENT_OF)])
    gather, again = (take([c for c in gathers if (c.phase == "forward") == ahead]) for ahead in (True, False))
    wait = take([c for c in often if c.phase == "forward" and not c.where.startswith((GATHER_OF, GRADIENT_OF))])
    weight = min(share, (1 - share) / 2)  # as many products as the forward
    return LayerTime(share * time.compute_s, wait, gather, (1 - share) * time.compute_s, left, again, syncs,
                     time.grad_sync_s, weight * time.compute_s)


def _forward_only(piece: LayerTime) -> LayerTime:
    """All of a piece in its forward: a step given whole is one task, whatever is inside."""
    return LayerTime(piece.forward_s + piece.backward_s, piece.forward_wait_s + piece.backward_wait_s + piece.sync_s,
                     piece.forward_gather_s + piece.backward_gather_s, batch_sync_s=piece.batch_sync_s)
