"""Shifts against the images: do these agree better with each other where another unit, sign or order of axes puts the
particles?

First, some images are compared at low resolution with projections of a map that they did not build. Their cross
spectra are looked at for every convention: it moves the particle, which is a phase for each sample, and changes
nothing else. Where shifts are wrong the map is blurred, and does not tell well which ones are right. So where the
given ones are not clearly the best, low-resolution maps of either half of the images are made in each convention that
may be, and what they predict of the other half's images is compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.io.low_maps import HalfMaps
from mpirecon.kernels import fft
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.parallel.comm import Communicator
from mpirecon.validate.conventions import (
    POSES,
    Convention,
    ShiftEvidence,
    conventions,
    moved,
    turned_images,
)
from mpirecon.validate.low_slices import LowSlices
from mpirecon.validate.shift_parts import part_of

#: standard deviations that are no chance; and those by which the given shifts must be better for all to be well
_SURE, _WELL = 5.0, 3.0

#: standard deviations by which also those that a convention moves least must be for it
_NOT_AGAINST = 2.5

#: how many times as much a convention must predict as the given one
_MORE = 1.02

#: share of the particles, those that a convention moves most, without whom it must hold too: some may have lost their
#: shifts altogether
_LEFT_OUT = 1 / 3

#: particles below which nothing is reported; and pixels that a convention must move them by, root mean square, to be
#: another one
_FEWEST, _LEAST_WAY = 50, 0.3

#: pixels between the offsets of all images that are looked at, and beyond which they are one
_STEP, _LEAST_APART = 0.5, 0.75

#: standard deviations within which a simpler convention is as good as the best
_AS_GOOD = 2.0

#: shells that are compared: those before hold background, and those after cost more than they tell
_FIRST_SHELL, _LAST_SHELL = 2, 24


class ShiftSample:
    """Sampled images of all ranks, beside projections of maps that they did not build."""

    def __init__(
        self, comm: Communicator, box: int, pixel_size: float, last: int, phase_flipped: bool, premultiplied: bool
    ) -> None:
        """last : shell to which they are compared, below box / 2"""
        self.comm, self.box, self.pixel_size, self.last = comm, box, pixel_size, last
        self._phase_flipped, self._premultiplied = phase_flipped, premultiplied
        self._ky, self._kx = np.meshgrid(np.arange(-last, last + 1), np.arange(last + 1), indexing="ij")
        radius = np.hypot(self._kx, self._ky)
        self._shell = np.minimum(np.rint(radius).astype(np.int64), last)
        self._used = (radius >= _FIRST_SHELL) & (radius < last + 0.5) & ((self._kx > 0) | (self._ky > 0))
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._groups: list[np.ndarray] = [np.zeros(0, np.int64)]

    @staticmethod
    def last_shell(*limits: int) -> int | None:
        """The shell to compare to, within these limits; None where too few are left."""
        last = min(_LAST_SHELL, *limits)
        return last if last > _FIRST_SHELL else None

    def add(
        self, images: np.ndarray, ids: np.ndarray, particles: ParticleSet, slices: LowSlices, noise: np.ndarray
    ) -> None:
        """images : (m, n, n) float32, the particle bright · ids : (m,) · particles : of them, at the given poses ·
        noise : (m, shells) noise spectrum of each.
        """
        n, last = self.box, self.last
        rows = fft.rfft(np.asarray(images, np.float32))[:, :, : last + 1]
        spectra = fft.fft(rows, axis=1)[:, np.arange(-last, last + 1) % n]
        along_y, along_x = _phases(particles.pose.shift[:, None] / self.pixel_size + n // 2, last, n)
        white = np.sqrt(self._used / noise[:, self._shell]).astype(np.float32)
        data = spectra * along_y[:, 0, :, None] * along_x[:, 0, None, :] * white
        norm = (np.abs(data) ** 2).sum(axis=(1, 2))
        good = np.isfinite(norm) & (norm > 0)
        pose = particles.pose
        model = slices.at(pose.matrices()) * white
        whole = (ids, particles.half, pose.shift, pose.quaternion, data, self._ctf(particles.ctf), model, norm)
        self._groups.append(particles.optics_group[good])
        self._parts.append(tuple(part[good] for part in whole))

    def _ctf(self, ctf: np.ndarray) -> np.ndarray:
        c = ctf_coefficients(ctf, self.box, self.pixel_size)[:, :, None, None]
        x, y = self._kx, self._ky
        k2 = x * x + y * y
        turns = c[:, 0] * (x * x) + c[:, 1] * (x * y) + c[:, 2] * (y * y) + c[:, 3] * (k2 * k2) + c[:, 4]
        values = np.sin(2 * np.pi * turns) * c[:, 5] * np.exp(c[:, 6] * k2)
        return (np.abs(values) if self._phase_flipped else values).astype(np.float32)

    def _whole(self) -> tuple[np.ndarray, ...]:
        """What was added: (ids, half, shift, quaternion, data, ctf, model, norm), data and model whitened."""
        grid, complex_, real = self._used.shape, np.complex64, np.float32
        none = (
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros((0, 2)),
            np.zeros((0, 4)),
            np.zeros((0, *grid), complex_),
            np.zeros((0, *grid), real),
            np.zeros((0, *grid), complex_),
            np.zeros(0),
        )
        return tuple(np.concatenate(parts) for parts in zip(none, *self._parts))

    def compared(self) -> ShiftEvidence:
        """With the maps that were given; the same on all ranks. Collective."""
        ids, _, shift, _, data, ctf, model, norm = self._whole()
        own = np.maximum((np.abs(ctf * model) ** 2).sum(axis=(1, 2)), 1e-30)
        spectra = (model if self._premultiplied else ctf * model).conj() * data / np.sqrt(norm * own)[:, None, None]
        known = [*conventions(self.pixel_size), *self._apart(spectra)]
        finest = self.box * self.pixel_size / self.last
        way = self._ways(shift, known)
        cross = self._at(spectra, way)
        each = np.stack([cross, np.hypot(way[..., 0], way[..., 1])], axis=2)
        correlation, far = np.moveaxis(self._of_all(ids, each), 2, 0)
        m, sigmas, others, may_be = len(far), np.zeros(len(known)), [], []
        if m < _FEWEST:
            return ShiftEvidence(m, finest, known, correlation.mean(axis=0) if m else sigmas, sigmas, [])
        for number in range(1, len(known)):
            some = _least_moved(far[:, number])
            sigmas[number] = _sigmas(correlation[some, number] - correlation[some, 0])
            if np.sqrt(np.square(far[:, number]).mean()) > _LEAST_WAY:
                others.append(number)
                if sigmas[number] > (-_WELL if known[number].offset == (0, 0) else _SURE):  # the best of many offsets
                    may_be.append(number)
        # then the map is none: where it has the other sign, the right shifts look worst
        if any(known[number].axes != "x,y" for number in may_be):
            may_be = others
        ids, group = self._of_all(ids, np.stack([ids, np.concatenate(self._groups)], axis=1)).T
        part = part_of(known, correlation, far, ids, group)
        return ShiftEvidence(m, finest, known, correlation.mean(axis=0), sigmas, may_be, part=part)

    def _apart(self, spectra: np.ndarray) -> list[Convention]:
        """What all shifts are to be moved by, where images lie beside their projections: of cross spectra (m, ky, kx),
        which have a peak there. Collective.
        """
        return self._peak(self.comm.allreduce(spectra.sum(axis=0).astype(np.complex128)), 1)

    def _beside(self) -> list[Convention]:
        """As `_apart`, of the images alone: maps of images that lie far beside their projections show nothing.

        The mean of views from all sides is the same about its middle w: the phases of its transform, squared, are
        those of a shift by 2 w.
        """
        data, ctf = self._whole()[4:6]
        mean = (data if self._premultiplied else ctf * data).sum(axis=0)
        mean = self.comm.allreduce(mean.astype(np.complex128))
        return self._peak(mean**2 / np.maximum(np.abs(mean), 1e-30), 2)

    def _peak(self, spectrum: np.ndarray, times: int) -> list[Convention]:
        """Where `times` as far from the middle a spectrum has its peak; none where that is the middle."""
        way = np.arange(-self.box // times + 1, self.box // times)[:, None] * _STEP
        along_y, along_x = _phases(times * np.hstack([way, way]), self.last, self.box)
        agree = (along_y @ spectrum @ along_x.T).real
        y, x = np.unravel_index(agree.argmax(), agree.shape)
        found = float(way[x, 0]), float(way[y, 0])
        return [moved(*found)] if np.hypot(*found) > _LEAST_APART else []

    def checked(self) -> ShiftEvidence:
        """As `compared`, with those of POSES and offsets that may be; the same on all ranks.
        Collective.
        """
        evidence = self.compared()
        if evidence.particles < _FEWEST:
            return evidence
        suspected = evidence.may_be
        evidence = self._by_own_maps(replace(evidence, may_be=[]).and_also([*POSES, *self._beside()]))
        limits = [-_WELL if evidence.conventions[number].offset == (0, 0) else _WELL for number in evidence.may_be]
        more = [number for number, limit in zip(evidence.may_be, limits) if evidence.certainty[number] > limit]
        return replace(evidence, may_be=[*suspected, *more])

    def decided(self, suspected: list[Convention]) -> ShiftEvidence:
        """By maps that are made with each convention that may be, of the poses those that are suspected; the same on
        all ranks. Collective.
        """
        evidence = self.compared()
        if evidence.particles < _FEWEST:
            return evidence
        turned = turned_images() if evidence.may_be else []
        beside = self._beside() if any(one.offset != (0, 0) for one in suspected) else []
        poses = [one for one in suspected if one.of != "shifts" and one not in turned]
        return self._by_own_maps(evidence.and_also([*turned, *beside, *poses]))

    def symmetric(self, rotations: np.ndarray) -> tuple[float, float, float]:
        """Power of the images that maps of either half predict, without a point group of these rotations (g, 3, 3) and
        with it; and standard deviations by which it is more without. The same on all ranks. Collective.
        """
        ids, half, given, data, ctf = self._samples()
        on = ctf**2 if self._premultiplied else ctf
        gains, sums = [], 0
        for rotation in rotations:  # the first is none
            halves = self._half_maps(given.matrices() @ rotation.T, half)
            y = halves.turned(data)
            sums = sums + np.array(halves.maps(y if self._premultiplied else ctf * y, ctf**2))
            if not gains:
                alone, own = halves, y
                gains.append(alone.gains(own, alone.predicted(list(map(tuple, sums)), on)))
        gains.append(alone.gains(own, alone.predicted(list(map(tuple, sums)), on)))
        each = self._of_all(ids, np.stack(gains, axis=1))
        without, with_ = each.mean(axis=0) if len(each) else (0.0, 0.0)
        return float(without), float(with_), _sigmas(each[:, 0] - each[:, 1]) if len(each) >= _FEWEST else 0.0

    def _samples(self) -> tuple:
        """(ids, half, poses, data, ctf) of the samples that are compared, (m, s) each."""
        ids, half, shift, quaternion, data, ctf, _, norm = self._whole()
        at = np.flatnonzero(self._used)
        data, ctf = (values.reshape(len(ids), -1)[:, at] for values in (data / np.sqrt(norm)[:, None, None], ctf))
        return ids, half, Pose(quaternion, shift), data, ctf

    def _half_maps(self, matrices: np.ndarray, half: np.ndarray) -> HalfMaps:
        at = np.flatnonzero(self._used)
        samples = (values.ravel()[at] for values in (self._kx, self._ky, self._shell))
        return HalfMaps(self.comm, *samples, self.last, matrices, half - 1)

    def _by_own_maps(self, evidence: ShiftEvidence) -> ShiftEvidence:
        ids, half, given, data, ctf = self._samples()
        at = np.flatnonzero(self._used)
        way = self._ways(given.shift, evidence.conventions)
        as_given = self._half_maps(given.matrices(), half)
        gains = {}
        for number in (0, *evidence.may_be):
            other, halves, y = evidence.conventions[number], as_given, data
            if other.of != "shifts":
                halves = self._half_maps(other.rotations(given), half)
            if way[:, number].any():
                along_y, along_x = _phases(way[:, number : number + 1], self.last, self.box)
                y = data * (along_y[:, 0, :, None] * along_x[:, 0, None, :]).reshape(len(ids), -1)[:, at]
            y = halves.turned(y)
            maps = halves.maps(y if self._premultiplied else ctf * y, ctf**2)
            gains[number] = halves.gains(y, halves.predicted(maps, ctf**2 if self._premultiplied else ctf))
        each = self._of_all(
            ids, np.stack([*gains.values(), *np.hypot(way[..., 0], way[..., 1])[:, evidence.may_be].T], axis=1)
        )
        return _judged(evidence, dict(zip(gains, each.T)), dict(zip(evidence.may_be, each.T[len(gains) :])))

    def _ways(self, shift: np.ndarray, known: list[Convention]) -> np.ndarray:
        """(m, conventions, 2) pixels that each moves each particle by."""
        ways = [(shift @ one.matrix.T - shift) / self.pixel_size + one.offset for one in known]
        return np.stack(ways, axis=1)

    def _at(self, spectra: np.ndarray, way: np.ndarray) -> np.ndarray:
        """Re Σ spectra · exp(2πi k·way), (m, conventions)."""
        along_y, along_x = _phases(way, self.last, self.box)
        return ((along_y @ spectra) * along_x).sum(axis=-1).real

    def _of_all(self, ids: np.ndarray, each: np.ndarray) -> np.ndarray:
        """The rows of all ranks, in the order of the particles."""
        ids, each = (np.concatenate(parts) for parts in zip(*self.comm.allgather((ids, each))))
        return each[np.argsort(ids, kind="stable")]


def _judged(evidence: ShiftEvidence, gains: dict[int, np.ndarray], moved: dict[int, np.ndarray]) -> ShiftEvidence:
    """gains : number → power of each image that is predicted · moved : number → pixels."""
    predicted = {number: float(values.mean()) for number, values in gains.items()}
    certainty, better = {}, []
    for number, way in moved.items():
        more, some = gains[number] - gains[0], _least_moved(way)
        certainty[number] = _sigmas(more)
        if (
            certainty[number] > _SURE
            and _sigmas(more[some]) > _NOT_AGAINST
            and predicted[number] > _MORE * predicted[0]
        ):
            better.append(number)
    found = None
    if better:
        best = max(better, key=predicted.get)
        found = next(number for number in better if number == best or _sigmas(gains[best] - gains[number]) < _AS_GOOD)
    return replace(evidence, predicted=predicted, certainty=certainty, found=found)


def _phases(way: np.ndarray, last: int, box: int) -> tuple[np.ndarray, np.ndarray]:
    """exp(2πi k·way) along y, k = −last … last, and along x, k = 0 … last: (m, c, k) complex64 of way (m, c, 2) in
    pixels (x, y).
    """
    y, x = (
        np.exp(2j * np.pi / box * way[..., axis, None] * k).astype(np.complex64)
        for axis, k in ((1, np.arange(-last, last + 1)), (0, np.arange(last + 1)))
    )
    return y, x


def _least_moved(way: np.ndarray) -> np.ndarray:
    return np.argsort(way, kind="stable")[: int(np.ceil((1 - _LEFT_OUT) * len(way)))]


def _sigmas(values: np.ndarray) -> float:
    """Mean over its standard error."""
    spread = float(values.std(ddof=1))
    return float(values.mean()) / (spread / np.sqrt(len(values))) if spread > 0 else 0.0
