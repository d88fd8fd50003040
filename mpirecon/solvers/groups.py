"""Accumulators of groups of particles, spread over the ranks, and the maps made of their sums.

Every particle belongs to one (half, fold). A finished group is reduced and each rank keeps a slab of it, so that eight
groups cost every rank 8/p accumulators. A map is solved on one rank, from the sum of the groups it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels.sphere import Packed, Sphere, add_middle
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.pages import alone
from mpirecon.parallel.slab import slab
from mpirecon.solvers.slab_data import Group


@dataclass(frozen=True)
class MapOf:
    """A map by what it is made of: all particles of some halves, without one fold when `without` is given."""

    halves: tuple[int, ...]
    without: int | None = None

    def contains(self, group: Group) -> bool:
        return group[0] in self.halves and group[1] != self.without

    def __str__(self) -> str:
        if len(self.halves) == 2:
            return "map of all"
        return f"half {self.halves[0]}" + ("" if self.without is None else f" without fold {self.without}")


WHOLE = MapOf((1, 2))

#: numbers of sums that are added up at a time
_PIECE = 2**16


def half_map(half: int) -> MapOf:
    return MapOf((half,))


def held_out_map(group: Group) -> MapOf:
    """The map that scores a group: the other folds of its own half."""
    return MapOf((group[0],), without=group[1])


class GroupStore:
    """Reduced accumulators, one slab of each group on each rank.

    reducer : what sums accumulators that live on a device; the communicator itself when left out
    fixed_point : the units of accumulators that are whole numbers
    sphere : the points that can be other than zero, which are kept alone; all when left out
    room : another store of such sums, which are needed no more: their memory is used again
    """

    def __init__(self, comm: Communicator, shape: tuple[int, ...], reducer=None, fixed_point=None,
                 sphere: Sphere | None = None, room: GroupStore | None = None) -> None:
        self.comm = comm
        self.shape = shape
        self._sphere = sphere
        self._size = int(np.prod(shape)) if sphere is None else sphere.size
        self._reducer = reducer or comm
        self._fixed_point = fixed_point
        self._slabs: dict[Group, np.ndarray] = {}
        self._room = {} if room is None else room.emptied()
        self._sums: dict[tuple[MapOf, int], np.ndarray] = {}  # of halves at low frequencies
        self._left: np.ndarray | None = None  # what a fold leaves of them, in memory used again

    def room(self, group: Group) -> Packed | None:
        """Sums of a group that are needed no more, and may be overwritten with what ``put`` takes; None where there are
        none, or sums are reduced first."""
        if not self._single or self._fixed_point is not None or self._sphere is None or group not in self._room:
            return None
        return Packed(self._sphere, self._room[group])

    @property
    def _single(self) -> bool:
        """Whether sums are kept as they are given: they are one rank's, and on the host."""
        return self.comm.size == 1 and self._reducer is self.comm

    def put(self, group: Group, folded: np.ndarray | Packed) -> bool:
        """Sum a group's folded accumulator over the ranks and keep this rank's slab of it; collective.

        Returns
        -------
        bool
            whether the array itself was kept, and must be the caller's no more: by a single rank that has no room yet,
            where a copy would be as large as all of its sums of a group
        """
        single, room = self._single, self._room.pop(group, None)
        if isinstance(folded, Packed):  # in its room
            self._slabs[group] = folded.values
            return False
        if not single or self._fixed_point is not None:
            part = folded.reshape(-1) if self._sphere is None else self._sphere.pack(folded)
            part = part if single else self._reducer.reduce_scatter(part)
            if self._fixed_point is not None:
                part = self._fixed_point.floats(part, slab(self._size, self.comm.size, self.comm.rank)[0])
            self._slabs[group] = part
            return False
        if self._sphere is not None:
            part = self._sphere.pack(folded, room)
            self._slabs[group] = alone(part) if room is None else room
        elif room is None:
            self._slabs[group] = folded.reshape(-1)
        else:
            room[:] = folded.reshape(-1)
            self._slabs[group] = room
        return room is None

    def emptied(self) -> dict[Group, np.ndarray]:
        """The memory of the sums, which are gone."""
        slabs, self._slabs = self._slabs, {}
        self.forget_low()
        return slabs

    def collect(self, made_of: MapOf, root: int, last: bool = False,
                side: int | None = None) -> np.ndarray | Packed | None:
        """The sum of a map's groups, whole, on `root`; collective. Not to be changed: it may be what is stored. One
        without a fold at low frequencies may be overwritten by the next.

        last : of the last that is asked for, the groups are added up where they are, and gone
        side : of the lowest frequencies alone, a grid of this side
        """
        if side not in (None, self.shape[0]):
            return self._middle(made_of, root, side)
        groups = [group for group in self._slabs if made_of.contains(group)]
        parts = [self._slabs.pop(group) if last else self._slabs[group] for group in groups]
        total = added(parts, parts[0] if last or len(parts) == 1 else np.empty_like(parts[0]))
        del parts
        return self._shaped(total if self.comm.size == 1 else self.comm.gather_slabs(total, self._size, root))

    def forget_low(self) -> None:
        """Let go of the sums of halves at low frequencies, which are kept while maps without each fold are made."""
        self._sums.clear()
        self._left = None

    def _shaped(self, flat: np.ndarray | None) -> np.ndarray | Packed | None:
        if flat is None:
            return None
        return flat.reshape(self.shape) if self._sphere is None else Packed(self._sphere, flat)

    def _middle(self, made_of: MapOf, root: int, side: int) -> np.ndarray | None:
        """What a fold leaves of its half is the half less the fold: the half is summed once."""
        all_of = MapOf(made_of.halves)
        if made_of != all_of and self.comm.size == 1:
            whole = self._middle(all_of, root, side)
            (group,) = (group for group in self._slabs if all_of.contains(group) and not made_of.contains(group))
            if self._left is None or self._left.shape != whole.shape:
                self._left = np.empty_like(whole)
            add_middle(self._shaped(self._slabs[group]), self._left, -1, whole)
            return self._left
        out = np.zeros((side, side, side // 2 + 1, *self.shape[3:]), np.float32)
        if self.comm.size == 1 and (all_of, side) in self._sums:
            return self._sums[all_of, side]
        parts = [self._slabs[group] for group in self._slabs if made_of.contains(group)]
        if self.comm.size > 1:
            total = added(parts, np.empty_like(parts[0]))
            parts = [self.comm.gather_slabs(total, self._size, root)]
        if parts[0] is None:
            return None
        for part in parts:
            add_middle(self._shaped(part), out)
        if self.comm.size == 1:
            self._sums[all_of, side] = out
        return out


def added(parts: list[np.ndarray], out: np.ndarray) -> np.ndarray:
    """The sum of arrays (m,), in their order, in `out`, which may be the first: a piece after the other, each of which
    stays in a cache."""
    for first in range(0, len(out), _PIECE):
        piece = slice(first, first + _PIECE)
        if out is not parts[0]:
            out[piece] = parts[0][piece]
        for part in parts[1:]:
            out[piece] += part[piece]
    return out


class MapSet:
    """Maps of one box that live on one rank each; ``get`` brings one to every rank, ``bring`` to one."""

    def __init__(self, comm: Communicator, box: int) -> None:
        self.comm = comm
        self.box = box
        self._owner: dict[MapOf, int] = {}
        self._mine: dict[MapOf, np.ndarray] = {}

    def solve(
        self, store: GroupStore, maps: list[MapOf], solve: Callable[[MapOf, np.ndarray | Packed], np.ndarray],
        last: bool = False,
        side: int | None = None,
    ) -> None:
        """For each map, collect its groups on a rank and there keep ``solve(map, folded)``; as many at once as ranks.

        last : the store is not needed after the last of the maps
        side : of the grid, where maps of lower frequencies are enough
        """
        size = self.comm.size
        for first in range(0, len(maps), size):
            work = None
            for owner, made_of in enumerate(maps[first : first + size]):
                self._owner[made_of] = owner
                folded = store.collect(made_of, owner, last and made_of == maps[-1], side)
                if folded is not None:
                    work = made_of, folded
            with together(self.comm):
                if work is not None:
                    self._mine[work[0]] = np.ascontiguousarray(solve(*work), np.float32)
                    del work, folded

    def get(self, made_of: MapOf) -> np.ndarray:
        """The map on every rank, (n, n, n) float32; collective. Not to be changed in place."""
        owner = self._owner[made_of]
        volume = self._mine.get(made_of)
        if self.comm.size == 1:
            return volume
        if volume is None or self.comm.rank != owner:
            volume = np.empty((self.box,) * 3, np.float32)
        return self.comm.bcast_array(volume, owner)

    def bring(self, made_of: MapOf, root: int = 0) -> np.ndarray | None:
        """The map on `root`, None elsewhere; collective. Not to be changed in place."""
        owner, volume = self._owner[made_of], self._mine.get(made_of)
        if owner == root:
            return volume if self.comm.rank == root else None
        return self.comm.hand_over(volume, (self.box,) * 3, np.float32, owner, root)

    def take(self, made_of: MapOf, root: int = 0) -> np.ndarray | None:
        """As `bring`, of a map that is here no more then: `root` may change it."""
        volume = self.bring(made_of, root)
        del self._owner[made_of]
        self._mine.pop(made_of, None)
        return volume

    def place(self, made_of: MapOf, owner: int, volume: np.ndarray | None) -> None:
        """Put a map that its owner has made; the other ranks pass None."""
        self._owner[made_of] = owner
        if volume is not None:
            self._mine[made_of] = np.ascontiguousarray(volume, np.float32)

    def check(self, wanted: list[MapOf], what: str) -> None:
        """Raise UserError, on all ranks, where one of the maps that `what` was to make is not there, of another shape,
        or not finite. Collective."""
        names = {made_of: str(made_of).removeprefix("map of ") for made_of in wanted}
        with together(self.comm):
            for made_of, name in names.items():
                if made_of not in self._owner:
                    raise UserError(f"{what} made no map of {name}; expected maps of {', '.join(names.values())}")
                if self._owner[made_of] != self.comm.rank:
                    continue
                volume = self._mine.get(made_of)
                shape = None if volume is None else volume.shape
                if shape != (self.box,) * 3:
                    raise UserError(f"{what} made a map of {name} of shape {shape}; expected {(self.box,) * 3}")
                if bad := volume.size - np.count_nonzero(np.isfinite(volume)):
                    raise UserError(f"{what} made a map of {name} that holds {bad} NaN or infinite voxels")

    def owner(self, made_of: MapOf) -> int:
        return self._owner[made_of]

    def owned(self, made_of: MapOf) -> np.ndarray | None:
        """The map, on the rank that owns it; None elsewhere."""
        return self._mine.get(made_of) if self._owner.get(made_of) == self.comm.rank else None
