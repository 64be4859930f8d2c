"""What the user fixes; the rest is planned around it."""

from dataclasses import dataclass

from planner.core.recomputation import Recompute


@dataclass(frozen=True)
class Pins:
    """Every field may be left at its default: not pinned.

    Attributes:
      stages: number of pipeline stages; where ranks run several each, of all of them.
      boundaries: first layer of each stage after the first: `(4, 8)` makes stages [0,4) [4,8) [8,n).
      mesh_axes: names and sizes of the logical mesh of every stage, e.g. `(("data", 4), ("model", 2))`.
      microbatches: number of microbatches.
      schedule: name of a schedule: `"1f1b"`, `"gpipe"`, `"zb-h1"`, or one that gives every rank several stages,
        `"interleaved"`, `"zb-v"`.
      chunks: stages per rank, of such a schedule.
      params: (path or glob of parameter paths, PartitionSpec as a tuple per dimension of axis name, tuple of names, or
        None).
      activations: (name given by `jax.ad_checkpoint.checkpoint_name`, PartitionSpec as above).
      recompute: `"none"`, `"selected"` (tensors that are cheap to make again) or `"all"` (True and False also say all
        and none): of every layer; None or `"auto"`: choose, layer by layer.
      recipe: restrict the search to a standard recipe: `"data"`, `"zero-1"` (optimizer state sharded), `"zero-2"` (sums
        of gradients too), `"fsdp"` (parameters too: ZeRO-3), `"tensor"`, `"none"` (replicate everything), or None.
      offload: what may be kept in the memory of the devices' hosts: `"none"`; `"optimizer"`: all optimizer state is;
        `"activations"`: all activations of pipeline stages are; `"auto"`: what makes the step fastest. None: what has
        to be, where nothing fits without.
      rewrite: whether the graph may be rewritten (`planner/rewrites/`): `"joint"`: where that makes the plan faster,
        or the model fit, searched together with shardings; `"first"`: where it is faster on one device, before anything
        is sharded, as a baseline; `"none"` or None: not at all.
      allow, forbid: names of rules: only these, and not these. Without `allow`, all that assume nothing; `("*",)`: all.
      rewrites: (rule, where) of rewrites to apply, in order, as a plan lists them: these and no others.
      replicas: on several types of devices, replicas of the whole pipeline, one on a type, with a share of the batch
        each: so many, or 1 for none. None: where that is fastest.
    """

    stages: int | None = None
    boundaries: tuple[int, ...] | None = None
    mesh_axes: tuple[tuple[str, int], ...] | None = None
    microbatches: int | None = None
    schedule: str | None = None
    chunks: int | None = None
    params: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = ()
    activations: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = ()
    recompute: bool | str | None = None
    recipe: str | None = None
    offload: str | None = None
    replicas: int | None = None
    rewrite: str | None = None
    allow: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    rewrites: tuple[tuple[str, str], ...] = ()

    @property
    def recomputed(self) -> Recompute | None:
        """How every layer is recomputed; None: to be chosen. Raises `ValueError` for a word that says neither."""
        if self.recompute is None or self.recompute == "auto":
            return None
        if isinstance(self.recompute, bool):
            return Recompute.ALL if self.recompute else Recompute.NONE
        return Recompute(self.recompute)

    def describe(self) -> tuple[tuple[str, str], ...]:
        """(field, value) of what is pinned, for tables and plan files."""
        return tuple((name, str(value)) for name, value in vars(self).items() if value not in (None, ()))
