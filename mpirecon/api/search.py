"""Finding the poses of rejected particles again, from scripts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.api.particles import Particles
from mpirecon.api.result import Result
from mpirecon.backend.cpu import CpuBackend
from mpirecon.errors import UserError
from mpirecon.io.run_output import other_particles, took_part
from mpirecon.kinds import Positive, checked
from mpirecon.model.symmetry import point_group
from mpirecon.parallel.threads import Threads
from mpirecon.search.acceptance import Amplitudes, Acceptance
from mpirecon.search.decoy import decoy
from mpirecon.search.searcher import FEWEST_SHELLS, SUPPORTED, TABLE, Searcher, finest_shell
from mpirecon.solvers.normalise import Normaliser
from mpirecon.validate.fsc import filter_shells

#: particles that the noise spectrum and the amplitudes are estimated from, at most
_SAMPLE = 2000

#: images of a half set that are searched in a decoy as well, at most
_DECOYS = 150

#: images prepared at a time
_BATCH = 256


@checked
def search_poses(
    particles: Particles, result: Result, rows=None, *, offset_sigma: float = 0.0, diameter: Positive | None = None,
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
        particles to search; when left out those that were not kept,
        but for skipped images and particles that were given weight 0
    offset_sigma : float
        Å, standard deviation of the error of the given shifts on each axis; 0: shifts are right
    diameter : float, optional
        Å, of the particle; the run's, or two thirds of the box
    progress : callable
        called with the number of images that were searched since the last call

    Returns
    -------
    structured array
        a row each: ``id``, ``quaternion`` (4,), ``shift`` (2,) Å, ``probability`` that this is the pose, ``score``
        (matched filter),
        ``log_evidence``, ``angle_sigma`` (degrees), ``shift_sigma`` (Å), ``moved`` (degrees from the given pose)

    Raises
    ------
    UserError
        when the half maps do not agree well enough to search in

    Notes
    -----
    What chance does is measured on some of these images, searched in maps of another structure of equal power (decoys).
    """
    rows = _left_out(result) if rows is None else particles.metadata(rows).ids
    width = particles.box * particles.pixel_size
    if not 0 <= offset_sigma <= width / 4:
        raise UserError(f"offset_sigma is {offset_sigma:g} Å, expected 0 or more and at most a quarter of the box, "
                        f"{width / 4:g} Å")
    _refuse_others(particles, result)
    search = _Searcher(particles, result, offset_sigma / particles.pixel_size, diameter)
    about = particles.metadata()
    found, decoys = [np.zeros(0, TABLE)], [np.zeros(0, TABLE)]
    for half in (1, 2):
        mine = rows[about.half[rows] == half]
        if len(mine):
            found.append(search.of_half(half, mine, progress))
            some = mine[:: max(1, -(-len(mine) // _DECOYS))]
            decoys.append(search.of_half(half, some, lambda images: None, decoy_of=half))
    table, decoys = np.concatenate(found), np.concatenate(decoys)
    table = table[np.argsort(table["id"], kind="stable")]
    return _published(table, Acceptance.of(table["odds"], decoys["odds"], np.searchsorted(table["id"], decoys["id"])))


def _refuse_others(particles: Particles, result: Result) -> None:
    """Raise UserError where the run is not one of these images; their poses may be others."""
    if len(result.kept) != len(particles):
        raise UserError(f"the run in {result.folder} has {len(result.kept)} particles, {particles.path} "
                        f"{len(particles)}")
    known = {"images": result.summary["particles"].get("images")}
    with particles.file() as file:
        same = np.array_equal(file.halves(), result.particles["half"]) and other_particles(file, known) is None
    if not same:
        raise UserError(f"the run in {result.folder} is not of the particles in {particles.path}: their images or half "
                        "sets are others; open the file that it was made of")


def _left_out(result: Result) -> np.ndarray:
    """Rows of the particles that took part and were not kept."""
    table = result.particles
    return np.flatnonzero(~result.kept & took_part({name: table[name] for name in table.dtype.names}))


_PUBLISHED = ("id", "quaternion", "shift", "probability", "score", "log_evidence", "angle_sigma", "shift_sigma",
              "moved")


def _published(table: np.ndarray, acceptance: Acceptance) -> np.ndarray:
    out = np.empty(len(table), [("probability", "f8") if n == "probability" else (n, TABLE[n]) for n in _PUBLISHED])
    for name in _PUBLISHED:
        out[name] = acceptance(table["odds"]) if name == "probability" else table[name]
    return out


class _Searcher:
    """References, noise and amplitudes of one run, and the search of either half."""

    def __init__(self, particles: Particles, result: Result, offset_sigma: float, diameter: float | None) -> None:
        self.particles = particles
        box, size = particles.box, particles.pixel_size
        self.about = particles.metadata()
        with particles.file() as file:
            aberrations = file.aberrations()
        premultiplied = self.about.ctf_premultiplied
        self.backend = CpuBackend(box, size, premultiplied=premultiplied, aberrations=aberrations)
        self.normalise = Normaliser.of_summary(result.summary, box)
        diameter = (diameter or result.summary["configuration"]["diameter"] or 2 / 3 * box * size) / size
        fsc = np.minimum.accumulate(np.clip(result.fsc.values, 0, None))
        finest = finest_shell(fsc)
        if finest < FEWEST_SHELLS:
            raise UserError(f"the half maps of {result.folder} agree (FSC above {SUPPORTED}) in {finest} shells; a "
                            f"pose search needs {FEWEST_SHELLS}, because poses that fit such maps best are meaningless")
        kept = np.flatnonzero(result.kept)
        self.sample = kept[:: max(1, len(kept) // _SAMPLE)]
        group = point_group(result.summary["configuration"]["symmetry"])
        self.searcher = Searcher(self.backend.plane, size, premultiplied, self._noise()[None], group, diameter, finest,
                                 offset_sigma, 0.0, Amplitudes(1.0, 0.2), stretch=self.backend.stretch)
        self.mask = self.searcher.mask(box)
        halves = (filter_shells(half.to_numpy() * self.mask, fsc) for half in result.half_maps)
        self.references = [self.searcher.focused(half) for half in halves]
        self.searcher = replace(self.searcher, amplitudes=self._amplitudes())

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

    def _variance(self, batch) -> np.ndarray:
        """Noise power of each image over the typical one's, from its high frequencies, (b,)."""
        plane, noise = self.backend.plane, self.searcher.noise[0]
        outer = plane.shell >= 2 * plane.shells // 3
        c2 = np.square(batch.ctf) if self.searcher.premultiplied else np.ones_like(batch.ctf)
        expected = (noise[plane.shell[outer]] * c2[:, outer]).sum(axis=1)
        return (np.abs(batch.data[:, outer]) ** 2).sum(axis=1) / np.maximum(expected, 1e-30)

    def _amplitudes(self) -> Amplitudes:
        """Of kept particles at their poses, against the other half's map."""
        plane, cross, power = self.backend.plane, [], []
        grids = [self.backend.reference(reference.astype(np.float32)) for reference in self.references]
        used = (plane.shell >= 1) & (plane.shell <= self.searcher.finest)
        projection = self.backend.projection
        for part, batch in self._prepared(self.sample):
            on_cross, on_model = (w * used for w in self.searcher.weights(batch, self._variance(batch)))
            for half in (1, 2):
                rows = np.flatnonzero(self.about.half[part] == half)
                model = projection.forward(grids[2 - half], batch.rotation[rows])
                cross.append((on_cross[rows] * (np.conj(model) * batch.data[rows]).real).sum(axis=1))
                power.append((on_model[rows] * np.abs(model) ** 2).sum(axis=1))
        return Amplitudes.of(np.concatenate(cross).astype(np.float64), np.concatenate(power).astype(np.float64))

    def of_half(self, half: int, rows: np.ndarray, progress, decoy_of: int = 0) -> np.ndarray:
        """What is found of the images of these rows in the map of a half set, or in a decoy of it."""
        reference = self.references[half - 1]
        if decoy_of:
            reference = decoy(reference, self.mask, np.random.default_rng(decoy_of))
        search, threads = self.searcher.search(reference), Threads(1)
        return np.concatenate([
            self.searcher.table(search, part, batch, self._variance(batch), self.about.pose[part], progress, threads)
            for part, batch in self._prepared(rows)
        ])  # fmt: skip
