"""Images of one particle searched together: their relation is known, one turn and one move of the particle are not.

Image i of a group (tilt images of a particle) has the orientation R_i Q, R_i being the given one and Q a rotation of
the particle, and is off by the x and y of R_i d, d being a move of the particle: what the tilts are to each other
stays. Offsets that each image had of its own would be as many as the images, which are too noisy to tell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.backend.arrays import HOST, Arrays, HostWhereFull
from mpirecon.model.pose import Pose, matrix_from_quaternion
from mpirecon.model.symmetry import PointGroup
from mpirecon.parallel.threads import Threads
from mpirecon.search.acceptance import Amplitudes, log_odds
from mpirecon.search.fine import climb_together, turned
from mpirecon.search.orientations import distance, grid
from mpirecon.search.peaks import pick
from mpirecon.search.pose_search import Band
from mpirecon.search.searcher import TABLE, OtherSearcher, magnification_of
from mpirecon.search.slices import cut, slice_grid

#: as in pose_search: part of the finest period over the diameter that orientations are apart, and of the period that
#: offsets are …
_ANGLE, _OFFSET = 1.5, 0.5

#: … standard deviations of errors that are searched, candidates after the coarse search, and after each band of the
#: fine one
_REACH, _REACH_TURNS, _COARSE, _COARSE_MOVING, _FINE = 2.0, 3.0, 12, 40, (10, 4)

#: candidates are other peaks when they are this part of the grid's step apart, and one peak within so many standard
#: deviations
_WEEDED, _SAME = 1.2, 4.0

#: Gauss–Newton steps in each band, at most
_STEPS = 8

#: orientations whose slices are cut at a time
_BLOCK = 512


@dataclass(frozen=True)
class GroupPeaks:
    """The best turns and moves of a group, the best first: turn : (c, 4) · move : (c, 3) pixels · cross, power : (c,) ·
    curvature :
    (c, 6, 6) at amplitude 1 · distinct : (c,) bool"""

    turn: np.ndarray
    move: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    curvature: np.ndarray
    distinct: np.ndarray


class GroupSearch:
    """A search of one map's orientations by groups of images; parameters are those of PoseSearch, and `memory`, bytes
    that a group's images may take that were moved by all moves: those of larger ones are moved again and again."""

    def __init__(
        self,
        reference: np.ndarray,
        plane,
        diameter: float,
        finest: int,
        group: PointGroup,
        offset_sigma: float,
        turn_sigma: float = 0.0,
        arrays: Arrays = HOST,
        stretch: float = 1.0,
        memory: int = 2**27,
    ) -> None:
        self._memory = memory
        self._arrays = HostWhereFull(lambda where: where, arrays)
        self.box, self.group, self.offset_sigma, self.turn_sigma = plane.box, group, offset_sigma, turn_sigma
        self.band = Band.of(plane, diameter, finest, len(reference), stretch)
        self.grid = slice_grid(reference, self.band.limit, plane.box)
        period = plane.box / self.band.reach
        self.step = _ANGLE * period / diameter
        turns = grid(self.step, group)
        if turn_sigma:
            nearest = np.max([np.abs(copy[:, 0]) for copy in group.copies(turns)], axis=0)
            turns = turns[nearest >= np.cos(max(_REACH_TURNS * turn_sigma, self.step) / 2)]
        self.turns, self.moves = turns, _ball(_OFFSET * period, _REACH * offset_sigma)
        self._coarse = np.stack([self.band.kx, self.band.ky])[:, : self.band.coarse]

    def search(
        self, data: np.ndarray, on_cross: np.ndarray, on_model: np.ndarray, relation: np.ndarray,
        magnification: np.ndarray | None = None, threads: Threads = Threads(1),
    ) -> GroupPeaks:
        """The best turns and moves of a group; data, on_cross, on_model : (k, s) and magnification : (k, 2, 2) as
        PoseSearch.search takes them · relation : (k, 3, 3), given rotation matrices. The same bits by any number of
        threads."""
        order = self.band.order
        data, on_cross, on_model = (np.ascontiguousarray(a[:, order]) for a in (data, on_cross, on_model))
        relation = np.ascontiguousarray(relation)
        magnification = self.band.checked(np.tile(np.eye(2), (len(data), 1, 1)) if magnification is None
                                          else magnification)
        where, move = self.coarse(data, on_cross, on_model, relation, magnification, threads)
        return self._fine(self.turns[where], move, threads, data, on_cross, on_model, magnification, relation)

    def coarse(self, data, on_cross, on_model, relation, magnification=None,
               threads: Threads = Threads(1)) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the best turns (c,), their moves (c, 3))."""
        p = self.band.coarse
        image = data[:, :p] * on_cross[:, :p], on_model[:, :p], relation, magnification
        score, which = self._arrays(lambda arrays: self._scores(arrays, threads, *image))
        chosen = np.empty((1, _COARSE_MOVING if len(self.moves) > 1 else _COARSE), np.int64)
        pick(score[None], self.turns.astype(np.float32), np.cos(_WEEDED * self.step / 2), chosen)
        chosen = chosen[chosen >= 0]
        return chosen, self.moves[which[chosen]]

    def _scores(
        self, arrays: Arrays, threads: Threads, weighted, on_model, relation, magnification
    ) -> tuple[np.ndarray, np.ndarray]:
        """(the best score of each turn (n,) float32, the number of its move (n,))."""
        n, turns = len(self.turns), matrix_from_quaternion(self.turns)
        score, which, starts = np.empty(n, np.float32), np.empty(n, np.int64), range(0, n, _BLOCK)

        def image(i: int) -> tuple:
            moved = self._moved(weighted[i], relation[i]).view(np.float32)
            in_map = self._coarse if magnification is None else magnification[i] @ self._coarse
            return relation[i], in_map, arrays.moved(np.ascontiguousarray(moved.T)), arrays.moved(on_model[i])

        keeps = len(weighted) * len(self.moves) * weighted[0].nbytes <= self._memory
        images = [image(i) for i in range(len(weighted))] if keeps else None

        def some(a: int, b: int) -> None:
            slices = np.empty((min(_BLOCK, n), self.band.coarse), np.complex64)
            for first in starts[a:b]:
                block = slice(first, min(first + _BLOCK, n))
                them = images or (image(i) for i in range(len(weighted)))
                score[block], which[block] = self._of_turns(arrays, turns[block], slices[: block.stop - first], them)

        (threads if arrays.module is np else Threads(1)).over(len(starts), some)
        return score, which

    def _moved(self, weighted: np.ndarray, relation: np.ndarray) -> np.ndarray:
        """An image's coarse samples (p,) moved by what it shows of each move, (s, p) complex64."""
        kx, ky = self._coarse
        off = self.moves @ relation[:2].T
        phase = np.outer(off[:, 0], kx) + np.outer(off[:, 1], ky)
        return (weighted * np.exp(2j * np.pi / self.box * phase)).astype(np.complex64)

    def _of_turns(self, arrays: Arrays, turns: np.ndarray, slices: np.ndarray, images) -> tuple[np.ndarray, np.ndarray]:
        """As `_scores`, of some turns (m, 3, 3); slices : (m, p), room for those of one image"""
        xp = arrays.module
        cross, power = xp.zeros((len(turns), len(self.moves)), np.float32), xp.zeros(len(turns), np.float32)
        for relation, in_map, moved, on_model in images:
            cut(self.grid, relation @ turns, *in_map, slices)
            cross += arrays.moved(slices.view(np.float32)) @ moved
            power += arrays.moved(slices.real**2 + slices.imag**2) @ on_model
        best, which = arrays.on_host(cross.max(axis=1)), arrays.on_host(cross.argmax(axis=1))
        power = arrays.on_host(power)
        return np.divide(best, np.sqrt(power), out=np.zeros_like(power), where=power > 0), which

    def _fine(self, q, move, threads, data, on_cross, on_model, magnification, relation) -> GroupPeaks:
        q, move = q.copy(), move.copy()
        precision = np.array([0, 0, 0, *(1e-3,) * 3]) if self.offset_sigma else np.zeros(6)
        for number, count in enumerate((self.band.coarse, self.band.middle, len(self.band.kx))):
            sums, hessian = np.empty((len(q), 2)), np.empty((len(q), 6, 6))
            places = q, move, sums, hessian

            def some(a: int, b: int, count=count, places=places) -> None:
                climb_together(self.grid, self.box, self.band.kx, self.band.ky, count, data, on_cross, on_model,
                               magnification, relation, self.offset_sigma > 0, precision,
                               *(place[a:b] for place in places), _STEPS)  # fmt: skip

            threads.over(len(q), some)
            order = np.argsort(-sums[:, 0] / np.sqrt(np.maximum(sums[:, 1], 1e-30)), kind="stable")
            if number < len(_FINE):
                kept: list[int] = []
                for i in order:
                    if not kept or distance(q[i], q[kept]).min() > 0.5 * self.step:
                        kept.append(int(i))
                order = np.array(kept[: _FINE[number]])
            q, move, sums, hessian = q[order], move[order], sums[order], hessian[order]
        distinct = sums[:, 1] > 0
        for i in range(1, len(q)):
            near = min(_SAME / np.sqrt(max(np.linalg.eigvalsh(hessian[i, :3, :3]).min(), 1e-12)), 0.3)
            distinct[i] &= all(
                np.radians(self.group.angular_distance(q[i : i + 1], q[j : j + 1])[0]) > near for j in range(i)
            )
        return GroupPeaks(q, move, sums[:, 0], sums[:, 1], hessian, distinct)


def evidence_of(
    peaks: GroupPeaks, law: Amplitudes, offset_sigma: float, group: PointGroup, turn_sigma: float
) -> tuple[float, float]:
    """(log evidence of a group, the share of its best peak); parameters as of ``acceptance.log_evidence``, and the
    particle's point group: a turn is as far as the nearest of its copies, whichever of them was found."""
    size = 6 if offset_sigma else 3
    curvature = law.best(peaks.cross, peaks.power)[:, None, None] ** 2 * peaks.curvature[:, :size, :size]
    prior = np.full(len(peaks.cross), -np.log(8 * np.pi**2 / len(group)))
    if turn_sigma:
        turned = np.radians(group.angular_distance(np.array([1.0, 0, 0, 0]), peaks.turn))
        curvature = curvature + np.diag([1 / turn_sigma**2] * 3 + [0] * (size - 3))
        prior = -1.5 * np.log(2 * np.pi * turn_sigma**2) - turned**2 / (2 * turn_sigma**2)
    if offset_sigma:
        curvature = curvature + np.diag([0, 0, 0, *(1 / offset_sigma**2,) * 3])
        prior = prior - 1.5 * np.log(2 * np.pi * offset_sigma**2) - (peaks.move**2).sum(axis=1) / (2 * offset_sigma**2)
    sign, log_volume = np.linalg.slogdet(curvature)
    log = law.log_ratio(peaks.cross, peaks.power) + prior + size / 2 * np.log(2 * np.pi) - log_volume / 2
    log = np.where(peaks.distinct & (sign > 0) & (peaks.cross > 0), log, -np.inf)
    total = float(np.logaddexp.reduce(log))
    return total, float(np.exp(log[0] - total)) if np.isfinite(total) else 0.0


@dataclass(frozen=True)
class GroupSearcher(OtherSearcher):
    """How groups of images are searched, as a Searcher does single ones."""

    def search(self, reference: np.ndarray) -> GroupSearch:
        s = self.like
        return GroupSearch(
            np.ascontiguousarray(reference, np.float32),
            s.plane,
            s.diameter,
            s.finest,
            s.group,
            s.offset_sigma,
            s.turn_sigma,
            s.arrays,
            s.stretch,
        )

    def table(
        self,
        search: GroupSearch,
        rows: np.ndarray,
        batch,
        variance: np.ndarray,
        given: Pose,
        progress,
        threads: Threads,
    ) -> np.ndarray:
        """What is found of the images of one group, TABLE: odds, score and widths are those of the group."""
        s, relation = self.like, given.matrices()
        weights = s.weights(batch, variance)
        peaks = search.search(batch.data, *weights, relation, magnification_of(batch, given), threads)
        evidence, share = evidence_of(peaks, s.amplitudes, s.offset_sigma, s.group, s.turn_sigma)
        cross, power = peaks.cross[0], peaks.power[0]
        size = 6 if s.offset_sigma else 3
        precision = s.amplitudes.best(cross, power) ** 2 * peaks.curvature[0, :size, :size] + 1e-9 * np.eye(size)
        variances = np.maximum(np.diagonal(np.linalg.inv(precision)), 0)
        out = np.zeros(len(rows), TABLE)
        out["id"], out["quaternion"] = rows, composed(given.quaternion, peaks.turn[0])
        out["shift"] = given.shift + s.pixel_size * (relation[:, :2] @ peaks.move[0])
        out["odds"] = log_odds(np.array([evidence]), np.array([share]))[0]
        out["score"], out["log_evidence"] = cross / np.sqrt(power) if power > 0 else 0.0, evidence
        out["angle_sigma"] = np.degrees(np.sqrt(variances[:3].mean()))
        out["shift_sigma"] = s.pixel_size * np.sqrt(variances[3:].mean()) if size > 3 else 0.0
        out["contrast"], out["contrast2"] = s.amplitudes.moments(cross, power)
        progress(len(rows))
        return out

    def hidden(self, pose: Pose, rng: np.random.Generator) -> Pose:
        """Given poses of a group moved together by errors such as are searched for: one turn and one move."""
        s, relation = self.like, pose.matrices()
        move = s.offset_sigma * s.pixel_size * rng.standard_normal(3)
        turn = turned(np.array([1.0, 0, 0, 0]), s.turn_sigma * rng.standard_normal(3))
        return Pose(composed(pose.quaternion, turn), pose.shift + relation[:, :2] @ move)


def composed(q: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Quaternions of R(q) R(turn), (k, 4), of (k, 4) and (4,)."""
    w, x, y, z = q.T
    a, b, c, d = turn
    return np.stack([w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c, w * c - x * d + y * a + z * b,
                     w * d + x * c - y * b + z * a], axis=1)  # fmt: skip


def _ball(step: float, radius: float) -> np.ndarray:
    """Moves on a cubic lattice within a ball, 0 first, (s, 3) float64."""
    if radius <= 0:
        return np.zeros((1, 3))
    reach = np.arange(-int(np.ceil(radius / step)) - 1, int(np.ceil(radius / step)) + 2) * step
    found = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(found, axis=1)
    order = np.argsort(length, kind="stable")
    return found[order][length[order] <= radius + step / 2]
