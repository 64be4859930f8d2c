"""One stage at work: its arithmetic, its communication, and what of the two runs at the same time.

The devices of a rank have two streams, which its stages share. Kernels run on one, layer by layer; communication on the
other, in order. Per layer with c seconds of kernels, b seconds of communication that kernels wait for, and h seconds
that may run beside them:

    gathers that may hide     start with the layer before at the earliest, and hold up the end of their own layer
    what is waited for        follows them, and takes both streams
    gradient sums that hide   follow the layer's start, and hold up nothing but the stream, and the update; those made
                              once per batch give way to all else, and fill what time the stream has left

so that equal layers take max(c, h) + b each, and a layer with kernels to spare hides what its neighbour can't. Of each
gather and sum the fraction of `Overlap` may hide; the rest is waited for. What is left of gradients combined once per
batch, and may not hide, comes after the last backward.

In: `StageWork` and `Overlap`. Out: ends of tasks, and sums; intervals where they are wanted.
"""

from array import array
from dataclasses import dataclass, field
from types import MappingProxyType

from planner.core.hardware import Overlap
from planner.core.plan import LayerTime
from planner.schedules import Kind
from planner.simulate.timeline import STREAMS, WORKS, Columns, Edge, StageLine, Stream, Work
from planner.simulate.work import StageWork

COMPUTE, COLLECTIVE, LINK = (STREAMS.index(s) for s in (Stream.COMPUTE, Stream.COLLECTIVE, Stream.LINK))
UPDATE, HAND_OVER, GATHER, SYNC, REDUCE = (WORKS.index(w) for w in (
    Work.UPDATE, Work.HAND_OVER, Work.GATHER, Work.SYNC, Work.REDUCE))
KINDS = tuple(Kind)
WORK_OF = MappingProxyType({kind: WORKS.index(Work[kind.name]) for kind in Kind})


@dataclass(frozen=True, slots=True)
class Piece:
    """One way through one layer: seconds of kernels, of gathers and sums that may hide (`late_s`: those made once per
    batch), and of what is waited for."""

    layer: int
    kernels_s: float
    hidden_gather_s: float
    hidden_sync_s: float
    gather_s: float
    reduce_s: float
    sync_s: float
    late_s: float = 0.0

    @property
    def waited_s(self) -> float:
        return self.gather_s + self.reduce_s + self.sync_s

    @property
    def communication_s(self) -> float:
        return self.hidden_gather_s + self.hidden_sync_s + self.late_s + self.waited_s


def _pieces(work: StageWork, overlap: Overlap, kind: Kind, *, last: bool = False) -> tuple[Piece, ...]:
    """The layers of a stage in the order in which a task goes through them; `last`: the last of the stage's tasks."""
    found = [_piece(p, overlap, kind, -1 if work.first_layer is None else work.first_layer + n, last=last)
             for n, p in enumerate(work.pieces)]
    return tuple(found if kind is Kind.FORWARD else reversed(found))


def _piece(time: LayerTime, overlap: Overlap, kind: Kind, layer: int, *, last: bool) -> Piece:
    """A layer's part of a task. Of a backward in two, the first gathers and waits, the second sums gradients."""
    ahead, late = overlap.parameter_gather, overlap.gradient_sync
    if kind is Kind.FORWARD:
        gather = time.forward_gather_s
        return Piece(layer, time.forward_s, ahead * gather, 0.0, (1 - ahead) * gather, time.forward_wait_s, 0.0)
    weight_s = min(time.weight_s, time.backward_s)
    kernels = {Kind.BACKWARD: time.backward_s, Kind.INPUT_GRADIENT: time.backward_s - weight_s}.get(kind, weight_s)
    gather, wait = (0.0, 0.0) if kind is Kind.WEIGHT_GRADIENT else (time.backward_gather_s, time.backward_wait_s)
    sync, once = (0.0, 0.0) if kind is Kind.INPUT_GRADIENT else (time.sync_s, late * time.batch_sync_s if last else 0.0)
    return Piece(layer, kernels, ahead * gather, late * sync, (1 - ahead) * gather, wait, (1 - late) * sync, once)


def _together(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Pieces of which nothing may hide, as one: the same seconds in fewer steps."""
    if any(p.hidden_gather_s or p.hidden_sync_s or p.late_s for p in pieces):
        return pieces
    return (Piece(-1, sum(p.kernels_s for p in pieces), 0.0, 0.0, sum(p.gather_s for p in pieces),
                  sum(p.reduce_s for p in pieces), sum(p.sync_s for p in pieces)),)


@dataclass
class Streams:
    """The two streams of a rank's devices, which its stages share.

    Attributes:
      free_s: when arithmetic is free next.
      sent_s: when communication is.
      before_s: start of the layer before.
      late_s: gradient sums, made once per batch, that wait for time on the stream.
    """

    free_s: float = 0.0
    sent_s: float = 0.0
    before_s: float = 0.0
    late_s: float = 0.0


@dataclass
class StageRun:
    """A stage under way. `ways`: per kind of task, its layers; once more for the last task of the stage."""

    index: int
    work: StageWork
    ways: dict[tuple[Kind, bool], tuple[Piece, ...]]
    columns: Columns | None
    rank: Streams
    trains: bool
    busy_s: float = 0.0
    kernels_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    held: int = 0
    most: int = 0
    edge_times_s: "array[float]" = field(default_factory=lambda: array("d"))
    edges: "array[int]" = field(default_factory=lambda: array("b"))

    @classmethod
    def of(cls, index: int, work: StageWork, overlap: Overlap, columns: Columns | None, rank: Streams, *, trains: bool
           ) -> "StageRun":
        """A stage before its first task."""
        ways = {(kind, last): _pieces(work, overlap, kind, last=last and trains) for kind in KINDS
                for last in (False, True)}
        if columns is None:
            ways = {key: _together(pieces) for key, pieces in ways.items()}
        return cls(index, work, ways, columns, rank, trains)

    def do(self, kind: Kind, microbatch: int, start: float, *, last: bool) -> float:
        """Run a task from `start` on; its end."""
        work, t = self.work, start + self.work.call_s
        carried = 0.0 if kind is Kind.WEIGHT_GRADIENT else work.receive_s
        if kind is Kind.FORWARD and carried:
            t = self._hand_over(microbatch, t)
        if kind is Kind.FORWARD:
            self.held += 1
            self.most = max(self.most, self.held)
        self._edge(start, Edge(2 * KINDS.index(kind)))
        pieces = self.ways[kind, last]
        for piece in pieces:
            t = self._layer(piece, kind, microbatch, t)
        self.rank.sent_s = self._fill(self.rank.sent_s, t)
        if kind is not Kind.FORWARD and carried:
            t = self._hand_over(microbatch, t)
        self._edge(t, Edge(2 * KINDS.index(kind) + 1))
        if kind in (Kind.BACKWARD, Kind.WEIGHT_GRADIENT) or not self.trains:
            self.held -= 1
        kernels = sum(p.kernels_s for p in pieces) + work.call_s
        self.kernels_s += kernels
        self.communication_s += sum(p.communication_s for p in pieces) + carried
        self.exposed_s += max(0.0, t - start - kernels)
        self.busy_s += t - start
        self.rank.free_s = t
        return t

    def _layer(self, piece: Piece, task: Kind, microbatch: int, start: float) -> float:
        waited, rank = piece.waited_s, self.rank
        early = max(rank.sent_s, rank.before_s)
        needs_stream = piece.hidden_gather_s or waited
        gathered = early + piece.hidden_gather_s if needs_stream else start
        end = max(start + piece.kernels_s, gathered) + waited
        self._fill(gathered if needs_stream else early, start)
        rank.late_s += piece.late_s
        at = max(gathered, start)
        at = at if needs_stream else max(early, start)
        rank.sent_s = at + waited + piece.hidden_sync_s
        rank.before_s = start
        if self.columns is not None:
            self._add(COMPUTE, WORK_OF[task], microbatch, piece.layer, start, end)
            self._add(COLLECTIVE, GATHER, microbatch, piece.layer, early, gathered)
            for kind, seconds in ((GATHER, piece.gather_s), (REDUCE, piece.reduce_s),
                                  (SYNC, piece.sync_s + piece.hidden_sync_s)):
                self._add(COLLECTIVE, kind, microbatch, piece.layer, at, at + seconds)
                at += seconds
        return end

    def _fill(self, start: float, end: float) -> float:
        """Use time that the stream has left for what waits for it; when it is free again."""
        filled = min(self.rank.late_s, max(0.0, end - start))
        self.rank.late_s -= filled
        self._add(COLLECTIVE, SYNC, -1, -1, start, start + filled)
        return start + filled

    def _hand_over(self, microbatch: int, start: float) -> float:
        end = start + self.work.receive_s
        self._add(COMPUTE, HAND_OVER, microbatch, -1, start, end)
        return end

    def received(self, microbatch: int, sent: float, seconds: float, waited: float) -> None:
        """Note a hand-over that kept nobody busy: when it was sent, how long it took, how long the stage waited."""
        self.communication_s += seconds
        self.exposed_s += min(seconds, waited)
        self._add(LINK, HAND_OVER, microbatch, -1, sent, sent + seconds)

    def finish(self, overlap: Overlap) -> float:
        """Combine what is left of the gradients, and update; the end."""
        whole = sum(p.batch_sync_s for p in self.work.pieces)
        left = whole * (1 - overlap.gradient_sync) if self.trains else whole  # beside what is late
        rank = self.rank
        start, at = rank.free_s, max(rank.free_s, rank.sent_s)
        synced = at + rank.late_s + left
        end = synced + self.work.update_s
        rank.free_s, rank.sent_s, rank.late_s = end, synced, 0.0
        self.communication_s += left
        self.exposed_s += synced - start
        self.kernels_s += self.work.update_s
        self.busy_s += end - start
        self._add(COLLECTIVE, SYNC, -1, -1, at, synced)
        self._add(COMPUTE, SYNC, -1, -1, start, synced)
        self._add(COMPUTE, UPDATE, -1, -1, synced, end)
        if end > start:
            self._edge(start, Edge.UPDATE_STARTS)
            self._edge(end, Edge.UPDATE_ENDS)
        return end

    def line(self) -> StageLine:
        """What came of it; what would hide less than a millionth is rounding."""
        hidden = self.communication_s - self.exposed_s
        return StageLine(self.kernels_s, self.busy_s, self.communication_s,
                         hidden if hidden > 1e-6 * self.communication_s else 0.0, self.most, self.work.memory,
                         self.work.microbatch_bytes, self.work.left_bytes, self.edge_times_s, self.edges, self.trains)

    def _edge(self, at: float, what: Edge) -> None:
        self.edge_times_s.append(at)
        self.edges.append(what)

    def _add(self, stream: int, kind: int, microbatch: int, layer: int, start: float, end: float) -> None:
        if self.columns is None or end <= start:
            return
        c = self.columns
        c.stage.append(self.index)
        c.stream.append(stream)
        c.work.append(kind)
        c.microbatch.append(microbatch)
        c.layer.append(layer)
        c.start_s.append(start)
        c.end_s.append(end)
