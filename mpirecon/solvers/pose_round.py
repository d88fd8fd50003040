"""One search of poses in a run: who is searched in which map, dealt evenly to all ranks, wherever the particles are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from mpirecon.backend.cpu import CpuBackend
from mpirecon.model.draws import particle_rng
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.slab import shared_slab
from mpirecon.search.decoy import decoy
from mpirecon.search.fine import turned
from mpirecon.search.group_search import GroupSearcher
from mpirecon.search.local import LocalSearcher
from mpirecon.search.searcher import TABLE, Searcher
from mpirecon.solvers.groups import MapSet, half_map, held_out_map
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.slab_data import uniform_hash

#: weight over that of a typical particle below which an image has no part in a map
_NO_PART = 1e-3

#: particles that are searched in decoys, in all, and groups of images
_DECOYS, _DECOYS_OF_GROUPS = 300, 40

#: images prepared at a time, where ranks are dealt whole pieces, and their pixels
_BATCH, _DEALT, _PIXELS = 256, 64, 2**22

#: sets draws apart from the others of the seed
_DECOY = 0xDEC0

#: a row for each particle to be searched; fold −1: in the map of its whole half set · variance : its noise power over
#: the typical one · control : a particle whose own pose is known · unit : number that it shares with those that are
#: searched with it
ASK = np.dtype([("id", "i8"), ("half", "i1"), ("fold", "i2"), ("variance", "f8"), ("control", "?"), ("unit", "i8")])


def asks_of(
    comm: Communicator, slab, asked: np.ndarray, control: np.ndarray, weight: np.ndarray, sigma: np.ndarray,
    groups: np.ndarray | None = None
) -> np.ndarray:
    """Who is to be searched in which map, of all ranks, in the order of the file; fold −1: in that of the whole half.

    weight : (m,) with which particles built the maps · groups : (m,) of rows that are searched together
    """
    everybody = np.concatenate(comm.allgather(weight))  # to sum in one order, however they are spread
    no_part = weight <= _NO_PART * everybody.sum() / max((everybody > 0).sum(), 1)
    rows = np.flatnonzero(asked | control)
    mine = np.empty(len(rows), ASK)
    mine["id"], mine["half"], mine["variance"] = slab.ids[rows], slab.metadata.half[rows], np.square(sigma[rows])
    mine["fold"], mine["control"] = np.where(no_part[rows], -1, slab.fold[rows]), control[rows]
    mine["unit"] = (slab.ids if groups is None else groups)[rows]
    return np.sort(np.concatenate(comm.allgather(mine)), order="id")


@dataclass
class PoseRound:
    """backend : of the searched images · optics : optics groups of all ranks, sorted · kind : of what the searcher
    finds · together : whether rows of one unit are searched together"""

    engine: Engine
    backend: CpuBackend
    optics: list[int]
    searcher: Searcher | LocalSearcher | GroupSearcher
    console: object
    seed: int
    kind: np.dtype = TABLE
    together: bool = False

    @property
    def comm(self) -> Communicator:
        return self.engine.comm

    def in_maps(self, asks: np.ndarray, references: MapSet) -> np.ndarray:
        """What is found, of all ranks, in the order of the file: each searches its share of every map's particles."""
        tables = []
        share = [len(part) for half, fold in _keys(asks) for part in self._share(asks[self._of(asks, half, fold)])]
        with self.console.progress(len(asks), "search", mine=sum(share)) as progress:
            for half, fold in _keys(asks):
                made_of = half_map(half) if fold < 0 else held_out_map((half, fold))
                mine = self._share(asks[self._of(asks, half, fold)])
                volume = references.get(made_of)
                with together(self.comm):
                    volume = self.searcher.focused(volume) if mine else volume
                tables.append(self._in_map(volume, mine, progress))
        return self._all_of(tables)

    def in_decoys(self, asks: np.ndarray, references: MapSet) -> np.ndarray:
        """What is found of some particles in maps in which there is nothing of them to be found; of few groups in
        several such maps."""
        units, wanted = len(np.unique(asks["unit"])), _DECOYS_OF_GROUPS if self.together else _DECOYS
        asks = asks[uniform_hash(asks["unit"], self.seed + _DECOY) < wanted / max(units, 1)]
        again = -(-wanted // max(units, 1)) if self.together else 1
        tables = []
        with self.console.progress(again * len(asks), "search in decoys") as progress:
            for half, number in product((1, 2), range(again)):
                volume = references.get(half_map(half))
                with together(self.comm):
                    rng = np.random.default_rng([self.seed, half, _DECOY, *[number] * (number > 0)])
                    volume = decoy(self.searcher.focused(volume), self.searcher.mask(len(volume)), rng)
                tables.append(self._in_map(volume, self._share(asks[asks["half"] == half]), progress))
        return self._all_of(tables)

    def _all_of(self, tables: list[np.ndarray]) -> np.ndarray:
        table = np.concatenate(self.comm.allgather(np.concatenate([np.zeros(0, self.kind), *tables])))
        return table[np.argsort(table["id"], kind="stable")]

    @staticmethod
    def _of(asks: np.ndarray, half: int, fold: int) -> np.ndarray:
        return (asks["half"] == half) & (asks["fold"] == fold)

    def _share(self, asks: np.ndarray) -> list[np.ndarray]:
        """This rank's, in the pieces that are prepared at a time."""
        if not (self.together or self.engine.deterministic):
            return self._pieces(asks[self._part(len(asks))])
        pieces = self._pieces(asks)
        return pieces[self._part(len(pieces))]

    def _part(self, count: int) -> slice:
        return slice(*shared_slab(count, self.comm.size, self.comm.rank, self.engine.slab.shares))

    def _pieces(self, asks: np.ndarray) -> list[np.ndarray]:
        if self.together:
            order = np.argsort(asks["unit"], kind="stable")
            return [part for part in np.split(asks[order], np.flatnonzero(np.diff(asks["unit"][order])) + 1)
                    if len(part)]
        return [asks[first : first + self._length] for first in range(0, len(asks), self._length)]

    @property
    def _length(self) -> int:
        """Images prepared at a time. The last bits of matrix products depend on it: where they must not depend on the
        ranks, those are dealt whole pieces."""
        most = _DEALT if self.engine.deterministic else _BATCH
        return int(np.clip(_PIXELS // self.engine.slab.file.box**2, 1, most))

    def _in_map(self, volume: np.ndarray, pieces: list[np.ndarray], progress) -> np.ndarray:
        """What this rank finds of some particles in a map. Collective."""

        def advance(images: int) -> None:
            self.engine.pace.safe_point()
            progress.update(images)

        tables = [np.zeros(0, self.kind)]
        with together(self.comm), self.engine.timings("search"):
            if pieces:
                search = self.searcher.search(volume)
                for part, batch, own, hidden in self._images(pieces):
                    table = self.searcher.table(search, part["id"], batch, part["variance"], hidden, advance,
                                                self.backend.threads)
                    # not from the hidden
                    table["moved"] = self.searcher.group.angular_distance(table["quaternion"], own.quaternion)
                    tables.append(table)
        return np.concatenate(tables)

    def _images(self, pieces: list[np.ndarray]) -> Iterator[tuple]:
        """(asks, Batch, given Pose, Pose that is searched from) of images that any rank may have, read from the file
        and prepared as a run prepares its own."""
        file, normaliser = self.engine.slab.file, self.engine.slab.normaliser
        for part in pieces:
            start = int(part["id"][0])
            about = file.metadata(start, int(part["id"][-1]) + 1)[part["id"] - start]
            images = file.images(part["id"])
            if about.contrast == "black":
                images *= np.float32(-1)
            normaliser(images)
            hidden = self._hidden(about.pose, part)
            group = np.searchsorted(self.optics, about.optics_group)
            yield part, self.backend.prepare(images, replace(about, pose=hidden), group), about.pose, hidden
        file.refuse_changed()

    def _hidden(self, pose: Pose, asks: np.ndarray) -> Pose:
        """The given poses; those of the control moved by errors such as are searched for."""
        if self.together:
            return self.searcher.hidden(pose, particle_rng(self.seed, int(asks["unit"][0]),
                                                           "control")) if asks["control"][0] else pose
        q, shift = pose.quaternion.copy(), pose.shift.copy()
        for row in np.flatnonzero(asks["control"]):
            rng = particle_rng(self.seed, int(asks["id"][row]), "control")
            shift[row] += self.searcher.offset_sigma * self.searcher.pixel_size * rng.standard_normal(2)
            q[row] = turned(q[row], self.searcher.turn_sigma * rng.standard_normal(3))
        return Pose(q, shift)


def _keys(asks: np.ndarray) -> list[tuple[int, int]]:
    """(half, fold) of the maps that are searched in."""
    return sorted({(int(half), int(fold)) for half, fold in zip(asks["half"], asks["fold"])})
