"""Which communications take a tensor from one sharding to another, whatever its size.

They follow what XLA's SPMD partitioner was seen to do (a test compares the two): sum what is pending, slice where an
axis is added (free), exchange where it changes dimension, gather where it is dropped, permute where only the order of
devices differs. Where the two specs share no sharded dimension, the partitioner slices late, and where axes of one
dimension also part ways it knows no better than to gather everything ("involuntary full rematerialization").

In: two specs, pending axes, mesh shape. Out: moves: (kind, axes, share of the tensor).
Source: GSPMD (arXiv:2105.04663), and the compiled programs of jax 0.10.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from planner.core.spec import Spec, axes_of
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, PERMUTE, REDUCE_SCATTER

Move = tuple[str, tuple[int, ...], int]
"""(kind, axes, d): a collective on 1/d of the whole tensor's bytes."""


_Part = tuple[str, tuple[int, ...], tuple[int, ...]]
"""(kind, axes, the axes by which the tensor is cut meanwhile)."""


def recipe(src: Spec, dst: Spec, partial: frozenset[int], mesh_shape: tuple[int, ...], *,
           reduce_scatter_as_all_reduce: bool) -> tuple[Move, ...]:
    """The communications that take a tensor from `src` to `dst`, in order; none if every device only drops data.

    Raises:
      ValueError: if the ranks differ, or `src` uses an axis of `partial`.
    """
    cuts = tuple(size > 1 for size in mesh_shape)
    scatters = not reduce_scatter_as_all_reduce
    now, target = _combined(src, dst, partial, cuts, scatters=scatters)
    grows = all(_count(there, mesh_shape) % _count(here, mesh_shape) == 0
                for here, there in zip(now, target, strict=True))
    parts = _outline(src, dst, partial, cuts, scatters=scatters, grows=grows)
    return tuple((kind, axes, _count(over, mesh_shape)) for kind, axes, over in parts)


def _count(axes: Sequence[int], mesh_shape: tuple[int, ...]) -> int:
    return prod(mesh_shape[a] for a in axes)


@lru_cache(maxsize=1 << 20)
def _combined(src: Spec, dst: Spec, partial: frozenset[int], cuts: tuple[bool, ...], *, scatters: bool
              ) -> tuple[Spec, Spec]:
    """The axes of each dimension once nothing is pending, and those wanted; of both only those that cut."""
    way = _begun(src, dst, partial, cuts, scatters=scatters)
    return tuple(tuple(axes) for axes in way.now), way.dst


@lru_cache(maxsize=1 << 20)
def _outline(src: Spec, dst: Spec, partial: frozenset[int], cuts: tuple[bool, ...], *, scatters: bool, grows: bool
             ) -> tuple[_Part, ...]:
    """The recipe on all mesh shapes of which the same axes cut and on which the tensor is as finely cut at the end, or
    not (`grows`)."""
    way = _begun(src, dst, partial, cuts, scatters=scatters)
    way.reach(grows=grows)
    return tuple(way.moves)


def _begun(src: Spec, dst: Spec, partial: frozenset[int], cuts: tuple[bool, ...], *, scatters: bool) -> "_Way":
    if len(src) != len(dst):
        raise ValueError(f"can't reshard from rank {len(src)} to rank {len(dst)}")
    if partial & axes_of(src):
        raise ValueError(f"spec {src} is sharded along pending axes {sorted(partial)}")
    way = _Way([_cutting(axes, cuts) for axes in src], tuple(tuple(_cutting(axes, cuts)) for axes in dst), [])
    way.combine(tuple(a for a in sorted(partial) if cuts[a]), scatters=scatters)
    return way


def _cutting(axes: tuple[int, ...], cuts: tuple[bool, ...]) -> list[int]:
    """The axes that do cut: those of size one change nothing."""
    return [a for a in axes if cuts[a]]


@dataclass
class _Way:
    """A tensor on its way: the axes of each dimension now, where it is to go, and the moves so far."""

    now: list[list[int]]
    dst: Spec
    moves: list[_Part]

    def combine(self, pending: tuple[int, ...], *, scatters: bool) -> None:
        """Sum over the pending axes: scattered where the destination is sharded along them, else everywhere."""
        scattered = tuple(a for axes in self.dst for a in axes if a in pending) if scatters else ()
        if scattered:
            self._move(REDUCE_SCATTER, scattered)
            for now, dst in zip(self.now, self.dst, strict=True):
                now += [a for a in dst if a in scattered]
        everywhere = tuple(a for a in pending if a not in scattered)
        if everywhere:
            self._move(ALL_REDUCE, everywhere)

    def reach(self, *, grows: bool) -> None:
        """All that follows once nothing is pending. `grows`: every dimension is cut at least as finely at the end;
        devices then swap shards in one message."""
        if self._is_slice():
            return
        if grows:
            axes = self._disordered()
            self.now = [list(a) for a in self.dst]
            self._move(PERMUTE, axes)
        elif self._apart() and self._tangled():
            self._gather({axis for axes in self.now for axis in axes})
        else:
            if not (self._apart() and self._drops()):
                self._slice(busy=False)
            self._exchange_and_gather()
            self._slice(busy=True)
            if axes := self._disordered():
                self._move(PERMUTE, axes)

    def _is_slice(self) -> bool:
        return all(tuple(now) == dst[:len(now)] for now, dst in zip(self.now, self.dst, strict=True))

    def _apart(self) -> bool:
        """Whether no dimension is sharded both now and at the end."""
        return not any(now and dst for now, dst in zip(self.now, self.dst, strict=True))

    def _drops(self) -> bool:
        return any(self._home(a) is None for axes in self.now for a in axes)

    def _tangled(self) -> bool:
        """Whether the axes of a dimension part ways, or those of two meet in a third: the partitioner gathers all."""
        homes = [{self._home(a) for a in axes} for axes in self.now]
        targets = [home for found in homes for home in found if home is not None]
        return any(len(found) > 1 for found in homes) or len(targets) != len(set(targets))

    def _slice(self, *, busy: bool) -> None:
        """Every device keeps its part along the axes that are new. Free, and it makes all later moves smaller.

        Unless `busy`, a dimension that some axis leaves for another waits: the new axes would be in its way.
        """
        present = {a for axes in self.now for a in axes}
        for d, (now, dst) in enumerate(zip(self.now, self.dst, strict=True)):
            if busy or all(self._home(a) in (d, None) for a in now):
                now += [a for a in dst if a not in present]

    def _exchange_and_gather(self) -> None:
        """Bring every axis to the dimension it belongs to, or drop it."""
        while any(self._leaving(d) for d in range(len(self.now))):
            if not (self._gather_minor() or self._exchange(into_any=False) or self._bring_leaving_to_the_end()
                    or self._exchange(into_any=True)):
                raise AssertionError(f"no way from {self.now} to {self.dst}")

    def _exchange(self, *, into_any: bool) -> bool:
        """All-to-all of the minor axes of a dimension that belong to another (one that nothing leaves, preferably)."""
        for here, now in enumerate(self.now):
            there = self._home(now[-1]) if now else None
            if there is None or there == here or (self._leaving(there) and not into_any):
                continue
            first = len(now)
            while first and self._home(now[first - 1]) == there:
                first -= 1
            moved = now[first:]
            self.now[there] += moved
            del now[first:]
            self._move(ALL_TO_ALL, tuple(moved), unsharded=True)
            return True
        return False

    def _gather_minor(self) -> bool:
        """All-gather of the minor axes of a dimension that belong nowhere."""
        for now in self.now:
            dropped: set[int] = set()
            while now and now[-1 - len(dropped)] not in axes_of(self.dst):
                dropped.add(now[-1 - len(dropped)])
                if len(dropped) == len(now):
                    break
            if dropped:
                self._gather(dropped)
                return True
        return False

    def _gather(self, dropped: set[int]) -> None:
        for now in self.now:
            gone = tuple(a for a in now if a in dropped)
            now[:] = [a for a in now if a not in dropped]
            if gone:
                self._move(ALL_GATHER, gone)

    def _bring_leaving_to_the_end(self) -> bool:
        """One permute after which, in each dimension, what stays comes first and what moves elsewhere last."""
        before = [list(a) for a in self.now]
        for d, now in enumerate(self.now):
            stay = [a for a in self.dst[d] if a in now]
            now[:] = stay + [a for a in now if self._home(a) is None] + sorted(
                (a for a in now if self._home(a) not in (None, d)), key=lambda a: (self._home(a) or 0, a))
        moved = tuple(sorted({a for old, new in zip(before, self.now, strict=True) if old != new for a in new}))
        if moved:
            self._move(PERMUTE, moved)
        return bool(moved)

    def _home(self, axis: int) -> int | None:
        """The dimension that an axis shards at the end."""
        return next((d for d, axes in enumerate(self.dst) if axis in axes), None)

    def _leaving(self, dim: int) -> bool:
        return any(self._home(a) != dim for a in self.now[dim])

    def _disordered(self) -> tuple[int, ...]:
        """The axes of the dimensions that are not as they should be."""
        return tuple(sorted({a for now, dst in zip(self.now, self.dst, strict=True) if tuple(now) != dst
                             for a in (*now, *dst)}))

    def _move(self, kind: str, axes: tuple[int, ...], *, unsharded: bool = False) -> None:
        """Record a collective on the tensor as sharded now; with `unsharded`, as it would be without `axes`."""
        cut = tuple(a for now in self.now for a in now)
        self.moves.append((kind, axes, tuple(a for a in cut if a not in axes) if unsharded else cut))
