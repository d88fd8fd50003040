"""The tables that an export writes: the imported ones with what a run found added, or new ones in RELION 3.1's form.

What a run found goes into rlnParticleFigureOfMerit (the weight, which relion_reconstruct --fom_weighting reads) and
into columns whose names start with ``mpirecon``: RELION ignores labels it does not know, and keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cryosparc import relion_image_names
from mpirecon.io.cs_file import with_columns
from mpirecon.io.cs_places import micrographs_of
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star_columns import particle_block
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose

WEIGHT = "rlnParticleFigureOfMerit"
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
#: column of the run's particles.h5 → its label in a STAR file; in a .cs file its field is mpirecon/…
EXTRAS = {
    "score": "mpireconScore", "distance": "mpireconDistance", "posterior": "mpireconPosterior",
    "sigma": "mpireconSigma", "scale": "mpireconScale", "pose_error": "mpireconPoseError", "kept_to": "mpireconKeptTo",
    "planted_orientation": "mpireconPlantedOrientation", "planted_offset": "mpireconPlantedOffset",
    "planted_defocus": "mpireconPlantedDefocus", "planted_hand": "mpireconPlantedHand",
    "duplicate_of": "mpireconDuplicateOf",
    "pose_state": "mpireconPoseState", "pose_sigma": "mpireconPoseSigma", "offset_sigma": "mpireconOffsetSigma",
    "search_score": "mpireconSearchScore",
}
_PER_GROUP = {
    "rlnVoltage": "voltage_kv", "rlnSphericalAberration": "cs_mm", "rlnAmplitudeContrast": "amplitude_contrast",
}


def tables_of_all(file: ParticleFile) -> tuple[dict[str, pd.DataFrame], str]:
    """(STAR tables of all particles as they were imported, in their order, the name of the particles');
    of a .cs file, RELION 3.1's.

    Raises UserError where the particles were not imported, so that no table can name their images.
    """
    source, tables = file.source()
    if tables:
        return tables, particle_block(Path(source), tables)
    array = file.source_arrays().get("particles")
    if array is None:
        raise UserError(f"the particles of {file.path} were not imported, so that no STAR file can name their images")
    particles = file.metadata()
    tables = new_tables(particles, particles.pose, relion_image_names(file.path, array), file.aberrations())
    put_micrographs(tables, *micrographs_of(array))
    return tables, "particles"


def text(values: np.ndarray, digits: int = 12) -> list[str]:
    """Numbers as STAR text: whole numbers and flags as they are, others with `digits` significant digits."""
    if values.dtype.kind in "iu":
        return [str(value) for value in values.tolist()]
    if values.dtype.kind == "b":
        return ["1" if value else "0" for value in values.tolist()]
    return [f"{value:.{digits}g}" for value in values.tolist()]


def found_columns(run: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The run's columns that are exported beside the weight; those that it did not compute are left out."""
    columns = {name: run[name] for name in EXTRAS if name in run}
    return {name: v for name, v in columns.items() if v.dtype.kind != "f" or np.isfinite(v).any()}


def put(table: pd.DataFrame, label: str, values: list[str]) -> None:
    """Replace a column where it is, or add it at the end."""
    table[label] = pd.Series(values, index=table.index, dtype=str)


def add_found(table: pd.DataFrame, run: dict[str, np.ndarray]) -> list[str]:
    """Add weights and scores to a particle table; returns notes. A weight column of the source is kept under a name."""
    notes = []
    if WEIGHT in table and "mpireconSourceFigureOfMerit" not in table and "mpireconScore" not in table:
        put(table, "mpireconSourceFigureOfMerit", table[WEIGHT].tolist())
        notes.append(f"the source's {WEIGHT} is kept as mpireconSourceFigureOfMerit")
    put(table, WEIGHT, text(run["weight"], 9))
    for name, values in found_columns(run).items():
        put(table, EXTRAS[name], text(values, 9))
    return notes


def add_halves(table: pd.DataFrame, half: np.ndarray) -> list[str]:
    """Write the half sets where the table names none; returns notes."""
    label = "rlnRandomSubset"
    if label not in table:
        put(table, label, text(half))
        return [f"the source named no half sets: those drawn at import are written as {label}"]
    named = pd.to_numeric(table[label], errors="coerce").to_numpy()
    other = named != half
    if not other.any():
        return []
    put(table, label, [used if o else given for o, used, given in zip(other, text(half), table[label])])
    if (named[other] == 0).all():
        return [f"{label} was 0 for {int(other.sum())} particles: the half sets drawn at import are written there"]
    return [f"{label} is another than the source's for {int(other.sum())} particles: that of the import is written, "
            f"which the run used"]


def put_poses(table: pd.DataFrame, pose: Pose, rows: np.ndarray) -> None:
    """Write the poses of `rows` as Euler angles, in the columns that the table has."""
    angles = pose[rows].euler()
    for label, values in zip(_ANGLES, angles.T):
        column = table[label].tolist()
        for row, value in zip(rows.tolist(), text(values)):
            column[row] = value
        put(table, label, column)


def put_images(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Point the rows to other images; the names they had are kept as rlnImageOriginalName where that is free."""
    if "rlnImageOriginalName" not in table and "rlnImageName" in table:
        put(table, "rlnImageOriginalName", table["rlnImageName"].tolist())
    put(table, "rlnImageName", list(names))


def put_micrographs(tables: dict[str, pd.DataFrame], paths: list[str] | None, pixel_size: np.ndarray | None) -> None:
    """Name each particle's micrograph, and the Å per pixel of each group's, which RELION takes MTFs by."""
    particles, optics = tables["particles"], tables["optics"]
    if paths is not None and all(paths):
        put(particles, "rlnMicrographName", paths)
    if pixel_size is not None:
        sizes = pd.Series(pixel_size).groupby(particles["rlnOpticsGroup"].to_numpy())
        if (sizes.max() - sizes.min() <= 1e-5 * sizes.max()).all():
            put(optics, "rlnMicrographOriginalPixelSize", [f"{sizes.first()[g]:.7g}" for g in optics["rlnOpticsGroup"]])


def put_coordinates(particles: pd.DataFrame, x: np.ndarray, y: np.ndarray, rows: np.ndarray, flipped: bool) -> None:
    """Where particles are on their micrographs, pixels; flipped : on micrographs of `rows` that are flipped in y."""
    put(particles, "rlnCoordinateX", [f"{value:.6f}" for value in x])
    put(particles, "rlnCoordinateY", [f"{value:.6f}" for value in (rows - y if flipped else y)])


def put_mtfs(optics: pd.DataFrame, chosen: Sequence[tuple[int | None, Path]]) -> list[str]:
    """Name the MTF of each optics group, (group or None for all, file); returns notes.

    Raises
    ------
    UserError
        for a group that is not there, or a table that does not name the pixel which MTFs count in.
    """
    if "rlnMicrographOriginalPixelSize" not in optics:
        raise UserError("--mtf: RELION takes MTFs by rlnMicrographOriginalPixelSize, which is not known of these "
                        "particles; import with the --passthrough that has location/micrograph_psize_A")
    label, groups = "rlnMtfFileName", [int(group) for group in optics["rlnOpticsGroup"]]
    files = dict.fromkeys(groups, "") if label not in optics else dict(zip(groups, optics[label].tolist()))
    replaced = 0
    for group, path in chosen:
        if group is not None and group not in files:
            raise UserError(f"--mtf {group}={path}: there is no optics group {group}; there are "
                            f"{', '.join(map(str, groups))}")
        for one in groups if group is None else [group]:
            replaced += bool(files[one]) and label in optics
            files[one] = str(path)
    without = [str(group) for group, file in files.items() if not file]
    if without:
        raise UserError(f"--mtf: RELION needs an MTF of every optics group or of none; {', '.join(without)} got none")
    put(optics, label, list(files.values()))
    return [f"{label} of {replaced} optics groups is replaced"] if replaced else []


def new_tables(
    particles: ParticleSet, pose: Pose, names: Sequence[str] | None, aberrations: Aberrations | None = None
) -> dict[str, pd.DataFrame]:
    """RELION 3.1 tables (optics, particles) of particles that came from no STAR file.

    Parameters
    ----------
    pose : to write instead of the particles' own
    names : ``000001@stack.mrcs`` of each particle, or None for a table that is yet to get them
    aberrations : of the optics groups, beam tilt among the odd ones; MTFs are files of the source, and left out
    """
    groups, first, of_group = np.unique(particles.optics_group, return_index=True, return_inverse=True)
    optics = pd.DataFrame({"rlnOpticsGroup": text(groups), "rlnOpticsGroupName": [f"opticsGroup{g}" for g in groups]})
    table = pd.DataFrame(index=range(len(particles)))
    if names is not None:
        put(table, "rlnImageName", list(names))
    for label, field in _PER_GROUP.items():
        values = particles.ctf[field]
        if (values == values[first][of_group]).all():
            put(optics, label, text(values[first]))
        else:  # a particle's own value comes before its group's
            put(table, label, text(values))
    put(optics, "rlnImagePixelSize", [f"{particles.pixel_size:.12g}"] * len(groups))
    put(optics, "rlnImageSize", [str(particles.box)] * len(groups))
    put(optics, "rlnImageDimensionality", ["2"] * len(groups))
    if particles.ctf_premultiplied:
        put(optics, "rlnCtfDataAreCtfPremultiplied", ["1"] * len(groups))
    if particles.ctf_phase_flipped:
        put(optics, "rlnCtfDataArePhaseFlipped", ["1"] * len(groups))
    if aberrations is not None:
        _put_aberrations(optics, aberrations, groups)
    for label, values in _particle_columns(particles, pose).items():
        put(table, label, text(values))
    return {"optics": optics, "particles": table}


def _put_aberrations(optics: pd.DataFrame, aberrations: Aberrations, groups: np.ndarray) -> None:
    """Columns of the optics table, as RELION 3.1 reads them."""
    rows = aberrations.rows(groups)
    for label, values in (("rlnOddZernike", aberrations.odd[rows]), ("rlnEvenZernike", aberrations.even[rows])):
        if values.any():
            put(optics, label, ["[" + ",".join(text(row)) + "]" for row in values])
    matrix = aberrations.magnification[rows]
    if (matrix != np.eye(2)).any():
        for i, j in np.ndindex(2, 2):
            put(optics, f"rlnMagMat{i}{j}", text(matrix[:, i, j]))


def _particle_columns(particles: ParticleSet, pose: Pose) -> dict[str, np.ndarray]:
    ctf, origin = particles.ctf, 0.0 - pose.shift
    return {
        **dict(zip(_ANGLES, pose.euler().T)),
        "rlnOriginXAngst": origin[:, 0], "rlnOriginYAngst": origin[:, 1],
        "rlnDefocusU": ctf["defocus_u"], "rlnDefocusV": ctf["defocus_v"],
        "rlnDefocusAngle": np.degrees(ctf["astigmatism"]), "rlnPhaseShift": np.degrees(ctf["phase_shift"]),
        "rlnCtfBfactor": ctf["bfactor"], "rlnCtfScalefactor": ctf["scale"],
        "rlnOpticsGroup": particles.optics_group, "rlnRandomSubset": particles.half,
    }


def _uid_notes(array: np.ndarray) -> list[str]:
    """What keeps cryosparc-tools from finding these particles again in a job's output; it does so by uid."""
    if "uid" not in array.dtype.names:
        return ["the .cs file has no column uid, as its source: save_external_result cannot pass its particles through "
                "from a job"]
    values, count = np.unique(array["uid"], return_counts=True)
    if (count > 1).any():
        return [f"the uid {values[count > 1][0]} occurs twice, as in the source: save_external_result cannot "
                f"distinguish such particles"]
    return []


def cs_array(array: np.ndarray, run: dict[str, np.ndarray], half: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(array, notes): the imported .cs array with weight, scores and, where it had none, half sets."""
    columns = {f"mpirecon/{name}": v.astype("u1" if v.dtype.kind == "b" else "f4")
               for name, v in {"weight": run["weight"], **found_columns(run)}.items()}
    notes, split = _uid_notes(array), "alignments3D/split"
    if split not in array.dtype.names or (array[split] != half - 1).any():
        named = split in array.dtype.names and (array[split] != array[split][0]).any()
        columns[split] = (half - 1).astype("u4")
        notes.append(f"{split} is that of the import, which the run used, and another than the source's" if named else
                     f"the source named no half sets: those drawn at import are written as {split}")
    return with_columns(array, columns), notes
