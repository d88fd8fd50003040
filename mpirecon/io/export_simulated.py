"""Simulated errors in exported tables: what a run was given in place of what the source has,
and the truth in columns of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mpirecon.io.export_tables import put, put_poses, text
from mpirecon.io.origin_columns import Origins
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose

_ORIGINS = (("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY"))
_DEFOCI = ("rlnDefocusU", "rlnDefocusV")
_CS_DEFOCI = ("ctf/df1_A", "ctf/df2_A")


def without_errors(particles: ParticleSet) -> ParticleSet:
    """The particles with the poses and defoci from before errors were planted."""
    quaternion, shift, ctf = particles.true_quaternion, particles.true_shift, particles.ctf
    if particles.true_defocus is not None:
        ctf = ctf.copy()
        ctf["defocus_u"], ctf["defocus_v"] = particles.true_defocus.T
    pose = Pose(particles.pose.quaternion if quaternion is None else quaternion,
                particles.pose.shift if shift is None else shift)
    return replace(particles, pose=pose, ctf=ctf)


def origin_labels(table: pd.DataFrame) -> tuple[str, str]:
    """The columns of origins that a table has; RELION 3.1's where it has none."""
    return next((pair for pair in _ORIGINS if pair[0] in table), _ORIGINS[0])


def star_origins(table: pd.DataFrame, file: ParticleFile) -> Origins:
    """What a STAR table's origin columns hold."""
    return Origins.of(file, 1.0 if origin_labels(table) == _ORIGINS[0] else file.pixel_size)


def simulated_rows(particles: ParticleSet) -> dict[str, np.ndarray]:
    """``pose`` and ``defocus`` → rows whose pose or defocus was replaced, or is that of junk."""
    flags = {"pose": particles.pose_error, "defocus": particles.planted_defocus}
    return {name: np.flatnonzero(np.zeros(len(particles), bool) if rows is None else rows) for name,
            rows in flags.items()}


def put_used(table: pd.DataFrame, file: ParticleFile, particles: ParticleSet) -> None:
    """Write into a source's STAR table what the run was given, in its units; rows without errors keep their text."""
    true = without_errors(particles)
    put_poses(table, particles.pose, np.flatnonzero(_turned(particles, true)))
    if particles.true_shift is not None:
        labels, origins = origin_labels(table), star_origins(table, file)
        columns = np.stack([numbers_of(table, label) for label in labels], axis=1)
        order = origins.axes or axes_of(columns, true.pose.shift)
        for axis, label, unit in zip(order, labels, origins.factors):
            _put_changed(table, label, true.pose.shift[:, axis], particles.pose.shift[:, axis], particles.optics_group,
                         unit)
    if particles.true_defocus is not None:
        for label, field in zip(_DEFOCI, ("defocus_u", "defocus_v")):
            _put_changed(table, label, true.ctf[field], particles.ctf[field], particles.optics_group, 1.0)


def put_truth(table: pd.DataFrame, particles: ParticleSet) -> None:
    """Add what was true before errors were simulated:
    Euler angles, origins and defoci in Å, as far as errors were simulated in them."""
    true = without_errors(particles)
    for label, values in zip(("Rot", "Tilt", "Psi"), true.pose.euler().T):
        put(table, f"mpireconTrueAngle{label}", text(values))
    if particles.true_shift is not None:
        for label, values in zip("XY", (0.0 - true.pose.shift).T):
            put(table, f"mpireconTrueOrigin{label}Angst", text(values))
    if particles.true_defocus is not None:
        for label, values in zip("UV", particles.true_defocus.T):
            put(table, f"mpireconTrueDefocus{label}", text(values))


def cs_columns(array: np.ndarray, file: ParticleFile, particles: ParticleSet) -> dict[str, np.ndarray]:
    """Fields of a .cs array: what the run was given, in the source's units,
    and what was true (``mpirecon/true_…``, in Å)."""
    true = without_errors(particles)
    turned = _turned(particles, true)
    poses = array["alignments3D/pose"].copy()
    poses[turned] = particles.pose[turned].rotation_vectors()
    columns = {"alignments3D/pose": poses, "mpirecon/true_pose": true.pose.rotation_vectors().astype("f4")}
    if particles.true_shift is not None:
        shift, origins = array["alignments3D/shift"].copy(), Origins.of(file, file.pixel_size)
        for column, axis in enumerate(origins.axes or axes_of(shift, true.pose.shift)):
            shift[:, column] = changed(shift[:, column], true.pose.shift[:, axis], particles.pose.shift[:, axis],
                                       particles.optics_group, origins.factors[column])
        columns |= {"alignments3D/shift": shift, "mpirecon/true_shift_A": true.pose.shift.astype("f4")}
    if particles.true_defocus is not None:
        for number, (label, field) in enumerate(zip(_CS_DEFOCI, ("defocus_u", "defocus_v"))):
            columns[label] = changed(array[label], true.ctf[field], particles.ctf[field], particles.optics_group, 1.0)
            columns[f"mpirecon/true_df{number + 1}_A"] = true.ctf[field].astype("f4")
    return columns


def _turned(particles: ParticleSet, true: ParticleSet) -> np.ndarray:
    """(m,) bool, whose orientation is another than the true one, by more than rounding."""
    return (np.abs(particles.pose.quaternion - true.pose.quaternion) > 1e-9).any(axis=1)


def _put_changed(table: pd.DataFrame, label: str, true: np.ndarray, used: np.ndarray, group: np.ndarray,
                 unit: float) -> None:
    there = numbers_of(table, label)
    given = table[label].tolist() if label in table else ["0"] * len(table)
    new = text(changed(there, true, used, group, unit))
    put(table, label, [now if differs else old for now, old, differs in zip(new, given, used != true)])


def numbers_of(table: pd.DataFrame, label: str) -> np.ndarray:
    """(m,) float64, a column of a source; 0 where it has none."""
    return pd.to_numeric(table[label], errors="coerce").to_numpy(float) if label in table else np.zeros(len(table))


def fits(there: np.ndarray, values: np.ndarray) -> bool:
    """Whether a column is proportional to these values, where it is not 0."""
    some = np.abs(there) > 1e-6
    ratio = values[some] / there[some]
    return not some.any() or bool(np.allclose(ratio, np.median(ratio), rtol=1e-3, atol=1e-6))


def axes_of(there: np.ndarray, *shifts: np.ndarray) -> tuple[int, int]:
    """Which axis of the shifts (m, 2) each of a source's two columns (m, 2) has: an import may have taken x for y.

    shifts : what the columns may hold
    """
    straight, crossed = ([fits(there[:, column], shift[:, axis]) for column,
                          axis in enumerate(order) for shift in shifts]
                         for order in ((0, 1), (1, 0)))
    return (1, 0) if any(crossed) and not any(straight) else (0, 1)


def changed(there: np.ndarray, true: np.ndarray, used: np.ndarray, group: np.ndarray, unit: float) -> np.ndarray:
    """The source's numbers plus the error, in their unit: what one of them made at the import, else one of their optics
    group, else `unit` for all that are 0. Numbers that the import took for 0 count as that."""
    there, dtype = np.where(true == 0, 0, there), there.dtype
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(np.abs(there) > 1e-6, true / there, np.nan)
    for number in np.unique(group):
        rows = group == number
        known = factor[rows & np.isfinite(factor)]
        factor[rows & ~np.isfinite(factor)] = np.median(known) if len(known) else unit
    return (there + (used - true) / factor).astype(dtype)
