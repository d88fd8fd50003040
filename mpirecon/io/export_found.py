"""Poses that a run found in exported tables; those that it was given are kept in columns of their own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mpirecon.io.cs_file import with_columns
from mpirecon.io.export_simulated import (axes_of, changed, fits, numbers_of, origin_labels, star_origins,
                                          without_errors)
from mpirecon.io.export_tables import put, put_poses, text
from mpirecon.io.origin_columns import Origins
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose
from mpirecon.model.pose_state import FOUND, REFINED


def found_poses(run: Mapping[str, np.ndarray]) -> tuple[Pose | None, np.ndarray]:
    """(poses that a run used, None where its table of particles has none; rows whose pose it found or moved)."""
    if "pose_state" not in run:
        return None, np.zeros(0, np.int64)
    return Pose(run["quaternion"], run["shift"]), np.flatnonzero(np.isin(run["pose_state"], (REFINED, FOUND)))


def found_note(count: int) -> str:
    return (f"{count} poses are those that the run found; the given ones are kept in columns of their own "
            "(mpireconGiven…, mpirecon/given_…)")


def put_found_poses(table: pd.DataFrame, file: ParticleFile, found: Pose, rows: np.ndarray) -> None:
    """Write the poses found of `rows` in the source's columns, in its units, and the given ones as mpireconGiven….

    found : Pose of all particles
    """
    particles, labels, origins = file.metadata(), origin_labels(table), star_origins(table, file)
    given = particles.pose
    for label, values in zip(("Rot", "Tilt", "Psi"), given.euler().T):
        put(table, f"mpireconGivenAngle{label}", text(values))
    for label, values in zip("XY", (0.0 - given.shift).T):
        put(table, f"mpireconGivenOrigin{label}Angst", text(values))
    put_poses(table, found, rows)
    columns = np.stack([numbers_of(table, label) for label in labels], axis=1)
    for there, axis, label, default in zip(columns.T, origins.axes or _axes_of(columns, particles), labels,
                                           origins.factors):
        column = table[label].tolist() if label in table else ["0"] * len(table)
        new = text(_in_units_of(there, particles, found, axis, default))
        for row in rows.tolist():
            column[row] = new[row]
        put(table, label, column)


def cs_found_poses(array: np.ndarray, file: ParticleFile, found: Pose, rows: np.ndarray) -> np.ndarray:
    """A .cs array with the poses found of `rows`, and the given ones as mpirecon/given_pose and
    mpirecon/given_shift_A."""
    particles, origins = file.metadata(), Origins.of(file, file.pixel_size)
    pose, shift = array["alignments3D/pose"].copy(), array["alignments3D/shift"].copy()
    pose[rows] = found[rows].rotation_vectors()
    for column, axis in enumerate(origins.axes or _axes_of(shift, particles)):
        shift[rows, column] = _in_units_of(shift[:, column], particles, found, axis, origins.factors[column])[rows]
    given = {"mpirecon/given_pose": particles.pose.rotation_vectors().astype("f4"),
             "mpirecon/given_shift_A": particles.pose.shift.astype("f4")}
    return with_columns(array, {"alignments3D/pose": pose, "alignments3D/shift": shift, **given})


def _axes_of(columns: np.ndarray, particles: ParticleSet) -> tuple[int, int]:
    return axes_of(columns, particles.pose.shift, without_errors(particles).pose.shift)


def _in_units_of(there: np.ndarray, particles: ParticleSet, found: Pose, axis: int, default: float) -> np.ndarray:
    """Found shifts as the numbers of a source's column, which hold the shifts with or without simulated errors."""
    true, given = without_errors(particles).pose.shift[:, axis], particles.pose.shift[:, axis]
    column_has = given if fits(there, given) else true
    return changed(there, column_has, found.shift[:, axis], particles.optics_group, default)
