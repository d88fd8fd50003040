"""The phases of a run's images against its maps, optics group by optics group: are the aberrations what the file says?

Every particle that the run used is compared with the map of the *other* half set: the map of its own half holds its
noise, corrected by the aberrations of the file, and would confirm them whatever they are.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.replaced import STAR
from mpirecon.io.cryosparc_optics import PRESETS, signs_of
from mpirecon.io.cryosparc_optics import TERMS as CS_TERMS
from mpirecon.io.export_found import found_note
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile, agree_on
from mpirecon.io.refined_optics import check_refined, write_refined
from mpirecon.io.run_inputs import run_inputs
from mpirecon.io.run_output import open_particles, read_particle_table, read_summary
from mpirecon.model import ParticleSet
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.pose import Pose
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.ctf import ctf_samples
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.shift import centred_samples
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.slab import slab
from mpirecon.parallel.threads import Threads
from mpirecon.solvers.normalise import Normaliser
from mpirecon.validate.aberration_fit import measure_group
from mpirecon.validate.found_aberrations import (
    ABSENT,
    MIXED,
    OTHER,
    RIGHT,
    TERMS,
    WRONG_SIGN,
    FoundAberrations,
    FoundGroup,
    summed_up,
)
from mpirecon.validate.phase_fit import PhaseSums

_BATCH_SAMPLES = 2**20  # complex numbers of a batch's images
_FIRST = 1.5  # pixels of a transform: a half plane that ends before holds nothing
_COARSEST = 30.0  # Å: coarser, solvent and masks matter more than lenses


def run_phases(
    comm: Communicator, folder: Path, console, *, particles: Path | None = None,
    band: tuple[float, float] | None = None,
    threads: int = 1, star: Path | None = None, overwrite: bool = False,
) -> FoundAberrations:
    """Compare the images of the run in `folder` with its half maps; collective, the same on all ranks.

    Parameters
    ----------
    particles : the run's particle file, where it was moved
    band : (coarsest, finest) resolution in Å; by default from 30 Å to the run's resolution
    star : STAR file to write, of all particles with the aberrations and poses that were found

    Raises
    ------
    UserError
        when the folder holds no finished run, its particle file is gone, or the band holds nothing.
    """
    summary = run_together(comm, lambda: read_summary(folder))
    with run_together(comm, lambda: open_particles(folder, summary, particles)) as file:
        agree_on(comm, file)
        if star is not None:
            run_together(comm, lambda: refuse_existing(star, overwrite, run_inputs(folder, particles), writes=STAR))
            for text in run_together(comm, lambda: check_refined(star, file, overwrite)):
                console.warn(text)
        table = run_together(comm, lambda: read_particle_table(folder / "particles.h5"))
        known = run_together(comm, lambda: file.aberrations() or Aberrations.none(_groups(file)))
        band = run_together(comm, lambda: band or _band(summary, file))
        band = band[0], max(band[1], 2 * file.pixel_size)
        compared = _Comparison(file, known, band, threads, Normaliser.of_summary(summary, file.box))
        maps = run_together(comm, lambda: _maps(folder, file))
        start, stop = slab(len(file), comm.size, comm.rank)
        with together(comm), console.progress(stop - start, "comparing") as progress:
            compared.add(maps, start, stop, table, progress.update)
            file.refuse_changed()
        found = summed_up(compared.fitted(comm), band, compared.premultiplied)
        with together(comm):
            found.advice = _advice(found, file)
            if star is not None and comm.rank == 0:
                if moved := write_refined(star, file, found.refined(known), table, overwrite):
                    console.say(f"{star}: {found_note(moved)}")
    return found


def _groups(file: ParticleFile) -> np.ndarray:
    return np.unique(file.metadata().optics_group)


def _band(summary: dict, file: ParticleFile) -> tuple[float, float]:
    finest, width = summary.get("resolution_0143"), file.box * file.pixel_size
    if finest is None or finest > width / 4:
        agree = "at no resolution" if finest is None else f"to {finest:.4g} Å only"
        raise UserError(f"the half maps of this run agree {agree}, so that images cannot be compared with them; --band "
                        "Å:Å compares nevertheless")
    return max(_COARSEST, min(4 * finest, width / 2)), finest


def _maps(folder: Path, file: ParticleFile) -> dict[int, np.ndarray]:
    """Half set → the map its images are compared with: the other half's, in the run's mask."""
    found = {}
    for half in (1, 2):
        path = folder / f"half{3 - half}.mrc"
        if not path.is_file():
            raise UserError(f"{folder}: {path.name} is missing; this needs the folder of a finished run, as "
                            f"reconstruct left it")
        found[half] = read_map(path).array
        if found[half].shape[0] != file.box:
            raise UserError(f"{path} has a box of {found[half].shape[0]} pixels, the particles one of {file.box}")
        mask = folder / "mask.mrc"
        if mask.is_file():
            found[half] = found[half] * read_map(mask).array
    return found


def _advice(found: FoundAberrations, file: ParticleFile) -> list[str]:
    """What to do about aberrations that the images contradict, or that a .cs file has and an import left out."""
    verdicts, array = found.verdicts(), file.source_arrays().get("particles")
    wrong = found.contradicted or bool({OTHER, MIXED} & set(verdicts.values()))
    if array is not None:
        options = json.loads(file.attributes.get("provenance") or "{}").get("options") or {}
        # files that do not say what was chosen are from when csparc2star's way was the default
        signs = {} if options.get("ignore_aberrations") else signs_of(options.get("cs_aberrations") or "csparc2star")
        return [import_again(verdicts, signs)] if wrong else _left_out(found, signs, array)
    if not wrong:
        return []
    labels = ", ".join(
        dict.fromkeys(t.label for t in TERMS if verdicts.get(t.name) in (WRONG_SIGN, ABSENT, OTHER, MIXED))
    )
    return [f"correct {labels}: mpirecon aberrations --star FILE writes the particles with what was found here, or "
            "refine them with RELION's CtfRefine; then import and reconstruct again (mpirecon import "
            "--ignore-aberrations leaves all of them out)"]


def _left_out(found: FoundAberrations, signs: dict[str, int], array: np.ndarray) -> list[str]:
    """The option of import that also corrects for what the images show and the .cs file has; with the tilt's sign, if
    that is known to be right, as the columns are of one program."""
    shown = {term.cs_term for term in TERMS if found.unnamed(term)}
    columns = {name: column for name, (column, _, _) in CS_TERMS.items()
               if name in shown and name not in signs and column in array.dtype.names and array[column].any()}
    if not columns:
        return []
    words = _words({**signs, **dict.fromkeys(columns, signs.get("tilt", 1))})
    return [f"{', '.join(columns.values())} of the .cs file were ignored: import again with --cs-aberrations={words}, "
            "and reconstruct again"]


def import_again(verdicts: dict[str, str], signs: dict[str, int]) -> str:
    """The option of import with the signs that the images show."""
    if signs == PRESETS["csparc2star"] and verdicts.get("beam tilt") == WRONG_SIGN:
        return "import again with --cs-aberrations=all, and reconstruct again"
    said = {name: {verdicts.get(term.name) for term in TERMS if term.cs_term == name} for name in signs}
    new = {}
    for name, sign in signs.items():
        wrong = WRONG_SIGN in said[name] and RIGHT not in said[name]  # two-fold and four-fold share a column
        if ABSENT not in said[name] or RIGHT in said[name]:
            new[name] = -sign if wrong else sign
    if "shift" in new and "tilt" in signs:  # the ramp makes up for what tilt does at low frequencies
        new["shift"] *= new.get("tilt", 0) * signs["tilt"]
        new = {term: sign for term, sign in new.items() if sign}
    if new == signs:
        return ("mpirecon aberrations --star FILE writes the particles with what was found here, to be imported; or "
                "refine them again in cryoSPARC or RELION")
    return f"import again with --cs-aberrations={_words(new)}, and reconstruct again"


def _words(signs: dict[str, int]) -> str:
    """What signs_of reads as these."""
    word = next((word for word, preset in PRESETS.items() if preset == signs), None)
    return word or ",".join(("-" if sign < 0 else "") + name for name, sign in signs.items())


class _Comparison:
    """Images against projections at the Fourier samples within a band;
    `sums` holds a PhaseSums for each optics group."""

    def __init__(
        self, file: ParticleFile, known: Aberrations, band: tuple[float, float], threads: int, normalise: Normaliser
    ) -> None:
        self.normalise = normalise
        self.file, self.known = file, known
        width = file.box * file.pixel_size
        coarsest, finest = width / band[0], width / band[1]
        plane = HalfPlane.of(file.box, max(min(finest, file.box / 2), _FIRST), stretch=known.stretch)
        radius = np.hypot(plane.kx, plane.ky)
        chosen = (radius >= coarsest) & (radius < finest)
        if chosen.sum() < 20:
            raise UserError(f"from {band[0]:g} to {band[1]:g} Å these images of {file.box} pixels of "
                            f"{file.pixel_size:g} Å have {int(chosen.sum())} Fourier samples: too few to measure "
                            f"phases; give a wider --band, to {width / 4:g} Å or finer")
        plane = replace(plane, kx=plane.kx[chosen], ky=plane.ky[chosen], shell=plane.shell[chosen],
                        multiplicity=plane.multiplicity[chosen])
        self.plane, self.shell = plane, plane.shell - plane.shell.min()
        self.premultiplied = bool(file.attributes["ctf_premultiplied"])
        # what is to be found out is left out, magnification and detector are not
        bare = replace(known, odd=known.odd[:, :0], even=known.even[:, :0])
        self.optics = OpticsPlanes.of(bare, plane.kx, plane.ky, file.box, file.pixel_size, self.premultiplied)
        self.modelled = OpticsPlanes.of(known, plane.kx, plane.ky, file.box, file.pixel_size, self.premultiplied)
        k = np.stack([plane.kx, plane.ky]) / width
        self.at = np.einsum("gij,js->gis", known.magnification, k)
        self.projection = Projection(file.box, plane, threads=Threads(threads))
        self.sums = [PhaseSums.empty(len(plane)) for _ in known.group]

    def add(self, maps: dict[int, np.ndarray], start: int, stop: int, table: dict[str, np.ndarray], update) -> None:
        """Add the particles of rows start … stop that the run used, each against its half's map, at the pose that it
        has in that."""
        weight, poses = _weights(table), Pose(table["quaternion"], table["shift"]) if "shift" in table else None
        batch = max(1, _BATCH_SAMPLES // len(self.plane))
        for half, volume in maps.items():
            grid = self.projection.grid(volume)
            mine = start + np.flatnonzero((table["half"][start:stop] == half) & (weight[start:stop] > 0))
            for at in range(0, len(mine), batch):
                rows = mine[at : at + batch]
                self._add_batch(grid, rows, weight[rows], poses)
                update(len(rows))

    def _add_batch(self, grid: np.ndarray, rows: np.ndarray, weight: np.ndarray, poses: Pose | None) -> None:
        """poses : of all particles, where the run's table has them; runs may have found others than the file has"""
        span = self.file.metadata(int(rows[0]), int(rows[-1]) + 1)
        particles = span[rows - rows[0]]
        if poses is not None:
            particles = replace(particles, pose=poses[rows])
        images = self.file.images(rows)
        self.normalise(images)
        y = centred_samples(images, particles.pose.shift / self.file.pixel_size, self.plane,
                            self.projection.workers)
        if particles.contrast == "black":
            y = -y
        if particles.ctf_phase_flipped:  # a sign that is multiplied on once more is gone
            y *= np.where(ctf_samples(particles.ctf, self.plane, self.file.pixel_size, self.modelled,
                                      particles.optics_group) < 0, -1, 1)
        group = self.known.rows(particles.optics_group)
        p, sine, cosine = self._model(grid, particles, group)
        if self.optics is not None:
            self.optics.correct(y, group)  # the detector's part of premultiplied images
        for number in np.unique(group):
            some = group == number
            self.sums[number].add(sine[some], cosine[some], p[some], y[some], weight[some], self.premultiplied)

    def _model(self, grid, particles: ParticleSet, group: np.ndarray):
        """(projections (m, s) complex, sine and cosine of the CTF's phase (m, s) with envelope and detector)."""
        matrices = particles.pose.matrices()
        if self.optics is not None:
            matrices = self.optics.rotations(matrices, group)
        later = particles.ctf.copy()
        later["phase_shift"] += np.pi / 2
        sine, cosine = (ctf_samples(ctf, self.plane, self.file.pixel_size, self.optics, particles.optics_group)
                        for ctf in (particles.ctf, later))
        return self.projection.forward(grid, matrices), sine, cosine

    def fitted(self, comm: Communicator) -> list[FoundGroup]:
        """What is found in each group, on all ranks: they add their sums, and fit groups in turn."""
        for sums in self.sums:
            for array in sums.arrays():
                comm.allreduce(array)
            sums.count = comm.allreduce_scalar(sums.count)
        ctf = self._ctf_of_groups()
        mine = range(comm.rank, len(self.sums), comm.size)
        fitted = run_together(
            comm,
            lambda: {
                row: measure_group(
                    self.sums[row], self.known, row, self.at[row], self.shell, ctf[row], self.premultiplied
                )
                for row in mine
            },
        )
        found = {row: group for rank in comm.allgather(fitted) for row, group in rank.items()}
        return [found[row] for row in range(len(self.sums))]

    def _ctf_of_groups(self) -> np.ndarray:
        """The CTF of the first particle of each group, (g,)."""
        particles = self.file.metadata()
        first = dict(zip(*(found.tolist() for found in np.unique(particles.optics_group, return_index=True))))
        return particles.ctf[[first.get(group, 0) for group in self.known.group.tolist()]]


def _weights(table: dict[str, np.ndarray]) -> np.ndarray:
    """(m,) of each particle: 1 / its noise's variance, the typical one where the run compared only some particles with
    its maps; 0 where it did not use it or found it inverted."""
    sigma, kept = table.get("sigma", np.ones(len(table["half"]))), table["kept"].astype(bool)
    compared = kept & (sigma > 0)
    sigma = np.where(np.isnan(sigma), np.median(sigma[compared]) if compared.any() else 1.0, sigma)
    used = kept & (sigma > 0) & np.isfinite(sigma)
    return np.where(used, 1 / np.square(np.where(used, sigma, 1.0)), 0.0)
