"""Finding the poses of rejected particles again, from scripts."""

from __future__ import annotations

import numpy as np

from mpirecon.api.particles import Particles, structured
from mpirecon.api.result import Result
from mpirecon.backend.cpu import CpuBackend
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_output import took_part
from mpirecon.model.symmetry import point_group
from mpirecon.search.believe import Amplitudes, log_evidence, probabilities, widths
from mpirecon.search.pose_search import PoseSearch
from mpirecon.solvers.normalise import Normaliser
from mpirecon.validate.fsc import filter_shells
from mpirecon.validate.masks import soft_sphere

#: half-map FSC down to which shells are used, and in how many shells at least
_SUPPORTED, _FEWEST_SHELLS = 0.3, 5

#: particles that tell the noise spectrum and the amplitudes, at most
_SAMPLE = 2000

#: images prepared at a time
_BATCH = 256


def search_poses(
    particles: Particles, result: Result, rows=None, *, offset_sigma: float = 0.0, diameter: float | None = None,
    progress=lambda images: None,
) -> np.ndarray:
    """Search all orientations for those at which particles fit their own half set's map.

    A particle is compared with the map of its own half set, which it must not have built: particles that the run
    kept confirm themselves. Search some of those (``rows=``) to see how often their own pose comes back; the fraction
    is then an upper bound.

    Parameters
    ----------
    particles : Particles
        what the run was made of
    result : Result
        of a run that selects; its half maps and their FSC are used
    rows : index array or (m,) bool, optional
        particles to search; when left out those that were not kept, but for skipped images and particles that were given weight 0
    offset_sigma : float
        Å, standard deviation of the error of the given shifts on each axis; 0: shifts are right
    diameter : float, optional
        Å, of the particle; the run's, or two thirds of the box
    progress : callable
        called with the number of images that were searched since the last call

    Returns
    -------
    structured array
        a row each: ``id``, ``quaternion`` (4,), ``shift`` (2,) Å, ``probability`` that this is the pose, ``score`` (matched filter),
        ``log_evidence``, ``angle_sigma`` (degrees), ``shift_sigma`` (Å), ``moved`` (degrees from the given pose)

    Raises
    ------
    UserError
        when the half maps do not agree well enough to search in, or the optics groups have a magnification matrix.

    Notes
    -----
    Probabilities hold for noise that is white once its spectrum is divided out. On real images they are upper bounds.
    """
    rows = _left_out(result) if rows is None else particles.metadata(rows).ids
    if offset_sigma < 0 or not np.isfinite(offset_sigma):
        raise UserError(f"offset_sigma is {offset_sigma:g} Å, expected 0 or more")
    if len(result.kept) != len(particles):
        raise UserError(f"the run in {result.folder} has {len(result.kept)} particles, {particles.path} {len(particles)}")
    search = _Searcher(particles, result, offset_sigma / particles.pixel_size, diameter)
    about = particles.metadata()
    found = []
    for half in (1, 2):
        mine = rows[about.half[rows] == half]
        if len(mine):
            found.append(search.of_half(half, mine, progress))
    if not found:
        return np.zeros(0, _TABLE)
    table = np.concatenate(found)
    table["probability"] *= probabilities(table["log_evidence"])[0]
    return table[np.argsort(table["id"], kind="stable")]


def _left_out(result: Result) -> np.ndarray:
    """Rows of the particles that took part and were not kept."""
    table = result.particles
    return np.flatnonzero(~result.kept & took_part({name: table[name] for name in table.dtype.names}))


_TABLE = np.dtype([
    ("id", "i8"), ("quaternion", "f8", 4), ("shift", "f8", 2), ("probability", "f8"), ("score", "f8"), ("log_evidence", "f8"),
    ("angle_sigma", "f8"), ("shift_sigma", "f8"), ("moved", "f8"),
])  # fmt: skip


class _Searcher:
    """References, noise and amplitudes of one run, and the search of either half."""

    def __init__(self, particles: Particles, result: Result, offset_sigma: float, diameter: float | None) -> None:
        self.particles, self.offset_sigma = particles, offset_sigma
        box, size = particles.box, particles.pixel_size
        self.about = particles.metadata()
        with ParticleFile(particles.path) as file:
            aberrations = file.aberrations()
        if aberrations is not None and aberrations.stretch > 1:
            raise UserError(f"{particles.path}: optics groups have a magnification matrix, which the pose search does not know")
        premultiplied = self.about.ctf_premultiplied
        self.backend = CpuBackend(box, size, premultiplied=premultiplied, aberrations=aberrations)
        self.normalise = Normaliser.of_summary(result.summary, box)
        self.group = point_group(result.summary["configuration"]["symmetry"])
        diameter = diameter or result.summary["configuration"]["diameter"] or 2 / 3 * box * size
        self.diameter = diameter / size
        fsc = np.minimum.accumulate(np.clip(result.fsc.values, 0, None))
        self.finest = int(np.flatnonzero(fsc > _SUPPORTED).max(initial=0))
        if self.finest < _FEWEST_SHELLS:
            raise UserError(f"the half maps of {result.folder} agree (FSC above {_SUPPORTED}) in {self.finest} shells; a search "
                            f"needs {_FEWEST_SHELLS}: what fits such maps best says nothing of poses")
        mask = soft_sphere(box, min(self.diameter / 2 + 4, box / 2 - 4), 4.0)
        self.references = [filter_shells(half.to_numpy() * mask, fsc) * mask for half in result.half_maps]
        kept = np.flatnonzero(result.kept)
        self.sample = kept[:: max(1, len(kept) // _SAMPLE)]
        self.noise = self._noise()
        self.amplitudes = self._amplitudes()

    def _prepared(self, rows: np.ndarray):
        for first in range(0, len(rows), _BATCH):
            part = rows[first : first + _BATCH]
            images = self.particles.images(part)
            self.normalise(images)
            if self.about.contrast == "black":
                images = -images
            yield part, self.backend.prepare(images, self.about[part])

    def _noise(self) -> np.ndarray:
        """Mean power of the images in each shell, (shells,)."""
        plane = self.backend.plane
        power, count = np.zeros((2, plane.shells))
        for part, batch in self._prepared(self.sample):
            self.backend.add_spectrum(batch, np.ones(len(part)), power, count)
        return power / np.maximum(count, 1)

    def _weights(self, batch) -> tuple[np.ndarray, np.ndarray]:
        """What multiplies Re(conj(p) ŷ) and |p|², each image by its own noise."""
        plane = self.backend.plane
        outer = plane.shell >= 2 * plane.shells // 3
        c2 = np.square(batch.ctf) if self.about.ctf_premultiplied else np.ones_like(batch.ctf)
        expected = (self.noise[plane.shell[outer]] * c2[:, outer]).sum(axis=1)
        sigma2 = (np.abs(batch.data[:, outer]) ** 2).sum(axis=1) / np.maximum(expected, 1e-30)
        gain = (plane.multiplicity / self.noise[plane.shell])[None] / np.maximum(sigma2, 1e-6)[:, None]
        on_cross = gain if self.about.ctf_premultiplied else gain * batch.ctf
        return on_cross.astype(np.float32), (gain * np.square(batch.ctf)).astype(np.float32)

    def _amplitudes(self) -> Amplitudes:
        """Of kept particles at their poses, against the other half's map."""
        plane, cross, power = self.backend.plane, [], []
        grids = [self.backend.reference(reference.astype(np.float32)) for reference in self.references]
        used = (plane.shell >= 1) & (plane.shell <= self.finest)
        projection = self.backend.projection
        for part, batch in self._prepared(self.sample):
            on_cross, on_model = (w * used for w in self._weights(batch))
            for half in (1, 2):
                rows = np.flatnonzero(self.about.half[part] == half)
                model = projection.forward(grids[2 - half], batch.rotation[rows])
                cross.append((on_cross[rows] * (np.conj(model) * batch.data[rows]).real).sum(axis=1))
                power.append((on_model[rows] * np.abs(model) ** 2).sum(axis=1))
        return Amplitudes.of(np.concatenate(cross).astype(np.float64), np.concatenate(power).astype(np.float64))

    def of_half(self, half: int, rows: np.ndarray, progress) -> np.ndarray:
        search = PoseSearch(self.references[half - 1].astype(np.float32), self.backend.plane, self.diameter, self.finest,
                            self.group, self.offset_sigma)
        tables = []
        for part, batch in self._prepared(rows):
            peaks = search.search(batch.data, *self._weights(batch), progress)
            tables.append(self._table(part, peaks))
        return np.concatenate(tables)

    def _table(self, rows: np.ndarray, peaks) -> np.ndarray:
        size = self.particles.pixel_size
        evidence, share = log_evidence(peaks, self.amplitudes, self.offset_sigma, len(self.group))
        turn, offset = widths(peaks, self.amplitudes, self.offset_sigma > 0)
        q, pose = peaks.quaternion[:, 0], self.about.pose[rows]
        return structured({
            "id": rows, "quaternion": q, "shift": pose.shift + size * peaks.offset[:, 0], "probability": share,
            "score": peaks.score[:, 0], "log_evidence": evidence, "angle_sigma": np.degrees(turn),
            "shift_sigma": size * offset, "moved": self.group.angular_distance(q, pose.quaternion),
        }).astype(_TABLE)  # fmt: skip
