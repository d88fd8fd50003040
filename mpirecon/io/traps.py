"""What a particle table hides: warnings that the import prints instead of swallowing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.families import Families
from mpirecon.io.particle_table import ParticleTable
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import Communicator, together

_LISTED = 10  # classes that are named with their counts

#: how the columns begin that RELION and cryoSPARC keep of helical segments
_HELICAL = ("rlnHelical", "filament/")


def repeated_images(
    comm: Communicator, table: ParticleTable, whole: ParticleTable | None, families: Families | None, half: np.ndarray
) -> list[str]:
    """On rank 0, a warning of images that are in one half set more than once; collective.

    table : this rank's rows; whole, families, half : of all rows, on rank 0 (half on all)
    """
    again, warnings = None, []
    with together(comm):
        if comm.rank == 0 and families.any:
            shown = pd.DataFrame({"image": families.image, "half": half})
            again = shown.duplicated()
    if not comm.bcast(again is not None and bool(again.any())):
        return []
    pose = comm.gather_slabs(_pose_keys(table.pose), table.total or len(table))
    with together(comm):
        if comm.rank == 0:
            count = int(again.sum())
            same = int((shown.assign(pose=pose).duplicated() & again).sum())
            warnings.append(
                f"{count} of {len(whole)} rows repeat an image ({same} with the same pose, {count - same} with "
                f"another, as symmetry expansion makes them; first: {whole.describe(int(again.idxmax()))}); each "
                "counts as a separate particle"
            )
    return warnings


def _pose_keys(pose: Pose) -> np.ndarray:
    """(m,) int64, equal for poses that agree to 1e-5 in orientation and 1e-3 Å in shift."""
    turn = np.rint(1e5 * pose.quaternion)
    lead = turn[np.arange(len(turn)), np.abs(turn).argmax(axis=1)]  # q and −q are one orientation
    columns = np.column_stack([turn * np.sign(lead)[:, None], np.rint(1e3 * pose.shift)])
    return pd.util.hash_pandas_object(pd.DataFrame(columns + 0.0), index=False).to_numpy().view(np.int64)


def several_classes(comm: Communicator, table: ParticleTable) -> list[str]:
    """A warning where the rows are of several 3-D classes, whose poses are of different maps; collective."""
    some = comm.allgather(table.classes is not None)
    if not all(some):
        return []
    counts: dict[int, int] = {}
    for rank in comm.allgather(list(zip(*(part.tolist() for part in np.unique(table.classes, return_counts=True))))):
        for number, count in rank:
            counts[number] = counts.get(number, 0) + count
    if len(counts) < 2:
        return []
    listed = [f"class {number}: {counts[number]}" for number in sorted(counts)]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    most = max(counts, key=counts.get)
    column = table.class_select.split("=")[0].removesuffix("[{}]")
    return [f"{column} has {len(counts)} classes ({', '.join(listed[:_LISTED])} particles{more}): poses of different "
            "classes are relative to different maps, and all go into one here; --select "
            f"'{table.class_select.format(most)}' imports one class"]


def unapplied_symmetry(columns: Iterable[str]) -> list[str]:
    """A note where the table's columns say that its particles are segments of helices."""
    found = next((name for name in columns if name.startswith(_HELICAL)), None)
    if found is None:
        return []
    return [f"{found}: these are helical segments; helical symmetry (rise and twist) is not applied, each segment "
            "counts as a single particle of the point group"]


def zeros(table: ParticleTable) -> list[str]:
    """Warnings about columns in which some particles have a zero that says that they were never scored."""
    warnings = []
    for name, values in table.scores.items():
        zero = values == 0
        if zero.any() and not zero.all():
            row = int(np.flatnonzero(zero)[0])
            warnings.append(
                f"{name} is 0 for {int(zero.sum())} of {len(table)} particles (first: {table.place(row)}); were they "
                "ever aligned?"
            )
    zero = table.ctf["scale"] == 0
    if len(zero) and zero.all():
        raise UserError(f"{table.path}: the CTF's scale (rlnCtfScalefactor, ctf/scale) is 0 for all {len(table)} "
                        f"particles, so the images would contain no signal; remove that column, or give the file whose "
                        f"scales were estimated")
    if zero.any():
        warnings.append(f"the CTF's scale is 0 for {int(zero.sum())} of {len(table)} particles: they do not contribute "
                        f"to the map (first: {table.place(int(np.flatnonzero(zero)[0]))})")
    return warnings
