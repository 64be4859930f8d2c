"""What has to move when one plan takes the place of another: parameters and optimizer state, device by device.

Made by `planner/moving.py`; bytes, and seconds over the links of the new plan's cluster.
"""

from dataclasses import dataclass

PARAMETER, OPTIMIZER = "parameter", "optimizer state"
"""What a piece is of."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a parameter, or of its optimizer state, that a device does not have yet.

    Attributes:
      what: `PARAMETER` or `OPTIMIZER`.
      path, row: of the parameter, as in `core.plan.ParamPlan`, or of the leaf of the state that belongs to none.
      bytes: of the piece.
      source: the device of the old plan (flat index) that it comes from; None: from a checkpoint, as no device that is
        left has it.
    """

    what: str
    path: str
    row: int | None
    bytes: int
    source: int | None


@dataclass(frozen=True)
class Arrivals:
    """What a device of the new plan needs.

    Attributes:
      device: its flat index in the new plan's cluster.
      name: `"node3.gpu5"`, as the old plan calls it if it was there, else with its place in the new cluster.
      was: its flat index in the old plan's cluster; None for a device that is new.
      stage: of the new plan.
      params_bytes, opt_state_bytes: all that it is to hold.
      kept_bytes: what of it lies there already.
      pieces: what comes.
    """

    device: int
    name: str
    was: int | None
    stage: int
    params_bytes: int
    opt_state_bytes: int
    kept_bytes: int
    pieces: tuple[Piece, ...]

    @property
    def moved_bytes(self) -> int:
        """From other devices."""
        return sum(p.bytes for p in self.pieces if p.source is not None)

    @property
    def checkpoint_bytes(self) -> int:
        """From a checkpoint."""
        return sum(p.bytes for p in self.pieces if p.source is None)


@dataclass(frozen=True)
class Moves:
    """All of it. `seconds`: over the links, all devices at once, without what is read from a checkpoint, whose speed no
    profile knows."""

    devices: tuple[Arrivals, ...]
    seconds: float

    @property
    def kept_bytes(self) -> int:
        return sum(d.kept_bytes for d in self.devices)

    @property
    def moved_bytes(self) -> int:
        return sum(d.moved_bytes for d in self.devices)

    @property
    def checkpoint_bytes(self) -> int:
        return sum(d.checkpoint_bytes for d in self.devices)
