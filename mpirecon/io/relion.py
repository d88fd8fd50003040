"""RELION's particle tables as poses, CTFs, half sets and image names; the dialects of 1.4 to 5.

==================  =======================================  ===========================================
quantity            3.1, 4, 5 (optics groups)                before
==================  =======================================  ===========================================
shift (Å)           −rlnOriginX/YAngst                       −rlnOriginX/Y · pixel size
pixel size (Å)      rlnImagePixelSize                        rlnPixelSize, or rlnDetectorPixelSize (µm)
                                                             · 10⁴ / rlnMagnification
voltage, Cs, Q0     optics table (a particle's own value     particle table
                    comes first, as in RELION)
==================  =======================================  ===========================================
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.optics_table import put_optics
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.reading import CTF_REMEDIES, STATE_OPTIONS, Reading, refuse_beyond, settle_state
from mpirecon.io.relations import star_relations
from mpirecon.io.row_selection import ALL_ROWS, RowOptions, select_star_rows
from mpirecon.io.stack_paths import parse_image_names
from mpirecon.io.star import read_star
from mpirecon.io.star_columns import ANGLES, SUPPLIED, StarColumns, particle_block
from mpirecon.io.star_pixel_size import calibration_of, image_size_of, micrograph_pixel_of, pixel_size_of
from mpirecon.io.text_column import text_column, to_numbers
from mpirecon.io.traps import unapplied_symmetry
from mpirecon.model.optics import check_ctf, ctf_rows
from mpirecon.model.pose import FARTHEST, Pose
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together
from mpirecon.parallel.slab import slab

if TYPE_CHECKING:
    from mpirecon.io.import_options import ImportOptions

_ORIGINS = {("rlnOriginXAngst", "rlnOriginYAngst"): "A", ("rlnOriginX", "rlnOriginY"): "pixel"}

#: times round that an angle is no misread number
_MOST_TURNS = 1000

#: pixels that origins in Å and in pixels may differ by
_SAME_ORIGIN = 0.05

_SUBTOMOGRAMS = "subtomograms are not supported, only 2-D images"
_SCORES = ("rlnMaxValueProbDistribution", "rlnLogLikeliContribution", "rlnParticleFigureOfMerit")


def read_relion(
    path: str | os.PathLike, comm: Communicator | None = None, mixed: bool = False, rows: RowOptions = ALL_ROWS,
    reading: Reading = Reading(),
    **supplied: float | None,
) -> ParticleTable:
    """Read a RELION particle STAR file; with `comm`, of each rank's slab of the particles (collective).

    Parameters
    ----------
    mixed : particles may differ in box and pixel size; the table then has pixel_sizes
    rows : which rows are read, and what of half sets and families
    reading : units and state of the images, where the user named them
    supplied : voltage (kV), cs (mm), amplitude_contrast, pixel_size (Å)
        used where the file lacks the column, and instead of the file's where it has it (noted)

    Raises
    ------
    UserError
        naming file and line when columns are missing or contradict each other or a value is out of range.
    """
    comm = comm or SerialCommunicator()
    path, selected = Path(path), None
    tables = read_star(path, comm, "rlnImageName")
    if not rows.all:
        tables, selected = select_star_rows(
            comm, path, tables, run_together(comm, lambda: particle_block(path, tables)), rows
        )
    found = run_together(comm, lambda: _particle_table(path, tables, comm, supplied, mixed, rows, reading))
    if selected is not None:
        found.rows = selected.rows
        found.notes = [*selected.notes, *found.notes]
    return found


def whole_table(path: Path, particles: pd.DataFrame, comm: Communicator, options: ImportOptions) -> ParticleTable:
    """This rank's slab of a table with RELION's labels that another format holds:
    texts, in a table that every rank has read whole.

    Its optics are columns of the particles, as in RELION before 3.1. Rows cannot be selected. Collective.
    """
    if not options.rows.all:
        raise UserError(f"{path}: rows of it cannot be selected; leave --select and --first out")
    mine = particles.iloc[slice(*slab(len(particles), comm.size, comm.rank))].astype(str)
    mine.attrs["rows"] = len(particles)
    return run_together(comm, lambda: _particle_table(
        path, {"particles": mine}, comm, options.supplied, options.rescale is not None, options.rows, options.reading
    ))  # fmt: skip


def _particle_table(
    path: Path, tables: dict[str, pd.DataFrame], comm: Communicator, supplied: dict, mixed: bool, rows: RowOptions,
    reading: Reading,
) -> ParticleTable:
    block = particle_block(path, tables)
    particles, optics = tables[block], tables.get("optics")
    total = particles.attrs.get("rows", len(particles))
    if not total:
        raise UserError(f"{path}: the table data_{block} has no particles")
    if total < comm.size:
        raise UserError(f"{path}: {total} particles are too few for {comm.size} ranks; use {total} at most")
    first = slab(total, comm.size, comm.rank)[0]
    columns = StarColumns(path, particles, optics, supplied, mixed, reading)
    _refuse_other_data(columns)
    _require(columns)
    pixel_size = pixel_size_of(columns)
    calibration = calibration_of(columns)
    premultiplied, phase_flipped = _state(columns)
    sizes = np.broadcast_to(pixel_size, len(particles)) if mixed else None
    image, stack, stacks = parse_image_names(particles["rlnImageName"], path)
    pose = _pose(columns, pixel_size, calibration)
    found = ParticleTable(
        path=path,
        first=first,
        total=total,
        lines=particles.index.to_numpy(np.int64),
        tables=tables,
        particle_block=block,
        pixel_size=float(np.ravel(pixel_size)[0]),
        pixel_sizes=sizes,
        image_size=None if mixed else image_size_of(columns),
        image_sizes=columns.number("rlnImageSize") if mixed and "rlnImageSize" in columns else None,
        pose=pose,
        calibration=calibration,
        ctf=_ctf(columns),
        half=np.zeros(len(particles), np.uint8) if rows.new_halves else _halves(columns),
        relations=star_relations(particles, path, pose.shift, micrograph_pixel_of(columns, pixel_size), rows.family),
        optics_group=columns.group.astype(np.int32),
        ctf_premultiplied=premultiplied,
        ctf_phase_flipped=phase_flipped,
        image=image,
        stack=stack,
        stacks=stacks,
        half_label="rlnRandomSubset",
        micrograph=text_column(particles["rlnMicrographName"]).hashes() if "rlnMicrographName" in particles else None,
        classes=_classes(particles),
        class_select="rlnClassNumber={}",
        scores={label: to_numbers(particles[label]) for label in _SCORES if label in particles},
    )
    check_ctf(found.ctf, found.describe, CTF_REMEDIES)
    found.notes = [*dict.fromkeys(columns.notes), *_notes(columns)]
    found.warnings = list(dict.fromkeys(columns.warnings))
    put_optics(columns, found)
    found.notes += unapplied_symmetry(particles.columns)
    return found


def _refuse_other_data(columns: StarColumns) -> None:
    """Refuse tables whose rows are not single images with one full pose."""
    path = columns.path
    if "rlnImageDimensionality" in columns and (columns.number("rlnImageDimensionality") != 2).any():
        raise UserError(f"{path}: rlnImageDimensionality is not 2; {_SUBTOMOGRAMS}")
    if "rlnCtfImage" in columns:
        raise UserError(f"{path}: rlnCtfImage names a 3-D CTF for each row; {_SUBTOMOGRAMS}")
    for label in ("rlnOriginZ", "rlnOriginZAngst"):
        if label in columns and columns.number(label).any():
            raise UserError(f"{path}: {label} is not zero, so that rows are volumes; {_SUBTOMOGRAMS}")
    if "rlnTomoVisibleFrames" in columns:
        raise UserError(f"{path}: rows with rlnTomoVisibleFrames hold many tilt images each; give one row per image")
    for label in ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"):
        if label in columns and columns.number(label).any():
            raise UserError(f"{path}: {label} is not zero; the orientations are relative to it, which is not supported")
    if "rlnIsFlip" in columns and columns.number("rlnIsFlip").any():
        raise UserError(f"{path}: rlnIsFlip is not zero; such images are not supported, extract them without it")


def _require(columns: StarColumns) -> None:
    """Refuse a table without poses, CTF or images, naming all missing columns and the options that help."""
    missing = [label for label in ("rlnImageName", *ANGLES) if label not in columns.particles]
    if missing:
        raise UserError(
            f"{columns.path}: the particle table lacks {', '.join(missing)}; particles need images and poses: give the "
            "STAR file of a refinement (run_data.star), not of an extraction or import"
        )
    for x, y in _ORIGINS:
        if (x in columns) != (y in columns):
            raise UserError(f"{columns.path}: the particle table has only one of {x} and {y}")
    if columns.reading.no_ctf:
        return
    missing = [label for label in ("rlnDefocusU",) if label not in columns]
    helped = [o for o, (label, _) in SUPPLIED.items() if o != "pixel_size" and label not in columns]
    helped = [option for option in helped if columns.supplied.get(option) is None]
    if missing or helped:
        remedy = ("give a STAR file with CTF estimates, or --no-ctf where the images have no CTF" if missing
                  else "supply them")
        options = ", ".join("--" + option.replace("_", "-") for option in helped)
        raise UserError(
            f"{columns.path}: CTF columns are missing: {', '.join(missing + [SUPPLIED[o][0] for o in helped])}; "
            f"{remedy}" + (f" (options {options})" if helped else "")
        )


def _pose(columns: StarColumns, pixel_size: float | np.ndarray, calibration: np.ndarray | None) -> Pose:
    """Shifts keep their length in pixels of the images when another pixel size is supplied, whatever their unit is."""
    labels = next((pair for pair in _ORIGINS if pair[0] in columns), None)
    if labels is None:
        columns.notes.append("the table has no rlnOriginX/Y(Angst): all particles are taken as centred")
        shift = np.zeros((len(columns.particles), 2))
    else:
        own, angstrom = _ORIGINS[labels], 1.0 if calibration is None else calibration
        in_angstrom = columns.reading.units.get("shift", own).lstrip("-") == "A"
        if in_angstrom and calibration is None and columns.supplied.get("pixel_size") is not None:
            columns.notes.append(f"the table does not say at what pixel size {labels[0]} was measured: it is used "
                                 f"unchanged")
        numbers = np.stack([columns.number(label) for label in labels], axis=1)
        _compare_origins(columns, numbers, pixel_size)
        shift = columns.reading.shifts(numbers, pixel_size if own == "pixel" else angstrom, angstrom, pixel_size)
        refuse_beyond(columns, labels[0], np.abs(shift).max(axis=1), FARTHEST, "Å of the images")
    angles = {label: columns.number(label) for label in ANGLES}
    for label, angle in angles.items():
        refuse_beyond(columns, label, angle, _MOST_TURNS * 360, "degrees")
    return Pose.from_euler(*angles.values(), shift=shift)


def _compare_origins(columns: StarColumns, angstrom: np.ndarray, pixel_size: float | np.ndarray) -> None:
    """Warn where a table has origins in Å and in pixels, and they are not the same."""
    if not all(label in columns for pair in _ORIGINS for label in pair):
        return
    size = np.reshape(pixel_size, (-1, 1))
    pixels = np.stack([columns.number(label) for label in ("rlnOriginX", "rlnOriginY")], axis=1)
    differ = (np.abs(pixels - angstrom / size) > _SAME_ORIGIN).any(axis=1)
    if differ.any():
        columns.warnings.append("the table has rlnOriginX/Y (pixels) beside rlnOriginX/YAngst, and they are not the "
                                "same shifts: those in Å are used, as RELION does; remove the columns that are not "
                                "right")


def _ctf(columns: StarColumns) -> np.ndarray:
    if columns.reading.no_ctf:
        columns.notes.append("--no-ctf: no CTF is applied to the map's projections")
        return ctf_rows(len(columns.particles), voltage_kv=columns.number("rlnVoltage", 300.0), amplitude_contrast=1.0)
    u, v, angle = _defocus(columns)
    return ctf_rows(
        len(columns.particles),
        voltage_kv=columns.number("rlnVoltage"),
        defocus_u=u,
        defocus_v=v,
        astigmatism=np.radians(angle),
        cs_mm=columns.number("rlnSphericalAberration"),
        amplitude_contrast=columns.number("rlnAmplitudeContrast"),
        phase_shift=np.radians(columns.number("rlnPhaseShift", 0.0)),
        bfactor=columns.number("rlnCtfBfactor", 0.0),
        scale=columns.number("rlnCtfScalefactor", 1.0),
    )


def _defocus(columns: StarColumns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, V [Å] and the angle of U [degrees], each (m,); V is U where the table has none, the angle 0."""
    u = columns.number("rlnDefocusU")
    v = columns.number("rlnDefocusV") if "rlnDefocusV" in columns else u
    if "rlnDefocusV" not in columns:
        columns.notes.append("the table has no rlnDefocusV: the defocus is rlnDefocusU in all directions")
    elif "rlnDefocusAngle" not in columns and (u != v).any():
        columns.warnings.append(f"the table has no rlnDefocusAngle: astigmatism of up to {np.abs(u - v).max():.0f} Å "
                                "is taken as if rlnDefocusU were along x")
    return u, v, columns.number("rlnDefocusAngle", 0.0)


def _halves(columns: StarColumns) -> np.ndarray:
    half = columns.number("rlnRandomSubset", 0)
    bad = ~np.isin(half, (0, 1, 2))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{columns.path}, line {columns.particles.index[row]}: rlnRandomSubset is {half[row]:g}, expected 1, 2 or "
            "0 (not set); --new-halves draws half sets whatever the table says"
        )
    return half.astype(np.uint8)


def _classes(particles: pd.DataFrame) -> np.ndarray | None:
    """(m,) int64, the class of each particle, −1 where it is no number; None without a column."""
    if "rlnClassNumber" not in particles:
        return None
    return np.nan_to_num(to_numbers(particles["rlnClassNumber"]), nan=-1).astype(np.int64)


def _state(columns: StarColumns) -> tuple[bool, bool]:
    """Whether the images are CTF-premultiplied and whether they are phase-flipped:
    as the user says, else as the table does."""
    said = {}
    for label, given in (("rlnCtfDataAreCtfPremultiplied", columns.reading.premultiplied),
                         ("rlnCtfDataArePhaseFlipped", columns.reading.phase_flipped)):
        if given is None:
            remedy = f"import the images of each value apart, or say what holds for all with {STATE_OPTIONS[label]}"
            said[label] = bool(columns.uniform(columns.number(label, 0), label, remedy))
        else:
            said[label] = given
    return settle_state(*said.values(), columns.reading, columns.notes)


def _notes(columns: StarColumns) -> list[str]:
    notes = []
    label = "rlnNormCorrection"
    if label in columns.particles and (np.nan_to_num(to_numbers(columns.particles[label]), nan=1.0) != 1).any():
        notes.append("rlnNormCorrection is not 1 everywhere; it is not applied to the images")
    return notes
