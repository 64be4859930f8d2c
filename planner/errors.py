"""The one family of errors users see. Each message says what is wrong, where, and how to mend it."""

import difflib


class PlannerError(Exception):
    """Base of every error raised on purpose by `planner`.

    Args:
      what: what is wrong, in one sentence naming the offending value and its place.
      mend: what the user can do about it, in one sentence (may be empty).
    """

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(f"{what}\n  → {mend}" if mend else what)
        self.what = what
        self.mend = mend


class TraceError(PlannerError):
    """The model function could not be traced to a graph."""


class ModelError(PlannerError):
    """The model description is unusable (parameters, batch, optimizer, state)."""


class MeshError(PlannerError):
    """The device mesh or cluster is unusable."""


class ProfileError(PlannerError):
    """A hardware profile is missing, unreadable, or has an impossible number."""


class BatchError(PlannerError):
    """The batch can't be split as asked."""


class MemoryLimitError(PlannerError):
    """The model doesn't fit the cluster; says how many bytes are missing and what would fit.

    Attributes:
      need_bytes: the least per device that any plan was seen to need; None where none was seen.
    """

    def __init__(self, what: str, mend: str = "", need_bytes: int | None = None) -> None:
        super().__init__(what, mend)
        self.need_bytes = need_bytes


class PinError(PlannerError):
    """Pins contradict each other, the model or the mesh."""


class RewriteError(PlannerError):
    """A rewrite does not apply where it is said to."""


class PlanFileError(PlannerError):
    """A plan file is corrupt, truncated, or of another schema version."""


class PlanMismatchError(PlannerError):
    """A plan is used with another model or mesh than the one it was made for."""


class CheckpointError(PlannerError):
    """A checkpoint could not be saved, there is none to load, or it is of another model."""


class RunError(PlannerError):
    """A run that was under way can't go on: the command line ends with 1, not with 2 as for wrong input."""


class SaveError(CheckpointError, RunError):
    """A checkpoint of a run under way could not be written; those before it are whole."""


class NonFiniteError(RunError):
    """A loss, or a parameter that was to be saved, is not a finite number; says of which step.

    Attributes:
      step: number of the step from 0.
    """

    def __init__(self, step: int, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.step = step


class ProcessError(PlannerError):
    """Processes of a run do not find each other, or one of them is gone."""


class DisagreementError(ProcessError):
    """Processes of a run have other plans, versions or flags; raised with the same words in each."""


class VerifyError(PlannerError):
    """A plan could not be compiled for a target, or there is no such target."""


class ProblemError(PlannerError):
    """An intra-operator problem is malformed."""


class InfeasibleError(PlannerError):
    """An optimisation problem has no solution."""


class UnknownNameError(PlannerError):
    """A model, cluster or schedule name is not known; the nearest known names are suggested."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        mend = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
        super().__init__(f"unknown {kind} {name!r}", mend)
        self.name = name
        self.near = tuple(near)
