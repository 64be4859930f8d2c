"""One stage at work: its arithmetic, its communication, and what of the two runs at the same time.

A stage's devices have two streams. Kernels run on one, layer by layer; communication on the other, in order. Per layer
with c seconds of kernels, b seconds of communication that kernels wait for, and h seconds that may run beside them:

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

from planner.core.hardware import Overlap
from planner.simulate.timeline import STREAMS, WORKS, Columns, Edge, StageLine, Stream, Work
from planner.simulate.work import StageWork

COMPUTE, COLLECTIVE, LINK = (STREAMS.index(s) for s in (Stream.COMPUTE, Stream.COLLECTIVE, Stream.LINK))
FORWARD, BACKWARD, UPDATE, HAND_OVER, GATHER, SYNC, REDUCE = (WORKS.index(w) for w in (
    Work.FORWARD, Work.BACKWARD, Work.UPDATE, Work.HAND_OVER, Work.GATHER, Work.SYNC, Work.REDUCE))


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


def _pieces(work: StageWork, overlap: Overlap, way: int, *, last: bool = False) -> tuple[Piece, ...]:
    """The layers of a stage in the order in which a forward, a backward or the last backward goes through them."""
    gather, sync = overlap.parameter_gather, overlap.gradient_sync
    found: list[Piece] = []
    for n, p in enumerate(work.pieces):
        layer = -1 if work.first_layer is None else work.first_layer + n
        if way == FORWARD:
            found.append(Piece(layer, p.forward_s, gather * p.forward_gather_s, 0.0, (1 - gather) * p.forward_gather_s,
                               p.forward_wait_s, 0.0))
        else:
            late = sync * p.batch_sync_s if last else 0.0
            found.append(Piece(layer, p.backward_s, gather * p.backward_gather_s, sync * p.sync_s,
                               (1 - gather) * p.backward_gather_s, p.backward_wait_s, (1 - sync) * p.sync_s, late))
    return tuple(found if way == FORWARD else reversed(found))


def _together(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Pieces of which nothing may hide, as one: the same seconds in fewer steps."""
    if any(p.hidden_gather_s or p.hidden_sync_s or p.late_s for p in pieces):
        return pieces
    return (Piece(-1, sum(p.kernels_s for p in pieces), 0.0, 0.0, sum(p.gather_s for p in pieces),
                  sum(p.reduce_s for p in pieces), sum(p.sync_s for p in pieces)),)


@dataclass
class StageRun:
    """A stage under way. `free_s`: when its arithmetic is free next; `sent_s`: when its communication is."""

    index: int
    work: StageWork
    ways: tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]
    columns: Columns | None
    trains: bool
    free_s: float = 0.0
    sent_s: float = 0.0
    before_s: float = 0.0  # start of the layer before
    late_s: float = 0.0  # gradient sums, made once per batch, that wait for time on the stream
    busy_s: float = 0.0
    kernels_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    held: int = 0
    most: int = 0
    edge_times_s: "array[float]" = field(default_factory=lambda: array("d"))
    edges: "array[int]" = field(default_factory=lambda: array("b"))

    @classmethod
    def of(cls, index: int, work: StageWork, overlap: Overlap, columns: Columns | None, *, trains: bool) -> "StageRun":
        """A stage before its first task."""
        ways = (_pieces(work, overlap, FORWARD), _pieces(work, overlap, BACKWARD),
                _pieces(work, overlap, BACKWARD, last=trains))
        if columns is None:
            ways = (_together(ways[0]), _together(ways[1]), _together(ways[2]))
        return cls(index, work, ways, columns, trains)

    def do(self, way: int, microbatch: int, start: float, *, last: bool) -> float:
        """Run a forward or a backward from `start` on; its end."""
        work, t = self.work, start + self.work.call_s
        carried = work.receive_s
        if way == FORWARD and carried:
            t = self._hand_over(microbatch, t)
        if way == FORWARD:
            self.held += 1
            self.most = max(self.most, self.held)
        self._edge(start, Edge.FORWARD_STARTS if way == FORWARD else Edge.BACKWARD_STARTS)
        pieces = self.ways[2 if last and way == BACKWARD else way]
        for piece in pieces:
            t = self._layer(piece, way, microbatch, t)
        self.sent_s = self._fill(self.sent_s, t)
        if way == BACKWARD and carried:
            t = self._hand_over(microbatch, t)
        self._edge(t, Edge.FORWARD_ENDS if way == FORWARD else Edge.BACKWARD_ENDS)
        if way == BACKWARD or not self.trains:
            self.held -= 1
        kernels = sum(p.kernels_s for p in pieces) + work.call_s
        self.kernels_s += kernels
        self.communication_s += sum(p.communication_s for p in pieces) + carried
        self.exposed_s += max(0.0, t - start - kernels)
        self.busy_s += t - start
        self.free_s = t
        return t

    def _layer(self, piece: Piece, way: int, microbatch: int, start: float) -> float:
        waited = piece.waited_s
        early = max(self.sent_s, self.before_s)
        needs_stream = piece.hidden_gather_s or waited
        gathered = early + piece.hidden_gather_s if needs_stream else start
        end = max(start + piece.kernels_s, gathered) + waited
        self._fill(gathered if needs_stream else early, start)
        self.late_s += piece.late_s
        at = max(gathered, start)
        at = at if needs_stream else max(early, start)
        self.sent_s = at + waited + piece.hidden_sync_s
        self.before_s = start
        if self.columns is not None:
            self._add(COMPUTE, way, microbatch, piece.layer, start, end)
            self._add(COLLECTIVE, GATHER, microbatch, piece.layer, early, gathered)
            for kind, seconds in ((GATHER, piece.gather_s), (REDUCE, piece.reduce_s),
                                  (SYNC, piece.sync_s + piece.hidden_sync_s)):
                self._add(COLLECTIVE, kind, microbatch, piece.layer, at, at + seconds)
                at += seconds
        return end

    def _fill(self, start: float, end: float) -> float:
        """Use time that the stream has left for what waits for it; when it is free again."""
        filled = min(self.late_s, max(0.0, end - start))
        self.late_s -= filled
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
        start, at = self.free_s, max(self.free_s, self.sent_s)
        synced = at + self.late_s + left
        end = synced + self.work.update_s
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
                         self.work.in_flight, self.edge_times_s, self.edges, self.trains)

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
