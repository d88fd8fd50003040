"""Aberrations, magnification and MTF of optics groups, from RELION's optics table or particle by particle.

RELION 3.1 and later name them in the optics table. Before, and in cryoSPARC files, every particle has its own;
particles that share all of them are then one optics group.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.stack_paths import locate_stacks
from mpirecon.io.star import read_star
from mpirecon.io.star_columns import StarColumns
from mpirecon.model.aberrations import Aberrations, even_order, odd_order, tilt_coefficients, zernike_sum
from mpirecon.parallel.comm import Communicator, together

MAGNIFICATION = {"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0}
TILT = ("rlnBeamTiltX", "rlnBeamTiltY")

#: Zernike coefficients of a particle's own optics:
#: odd ones first, even ones, and the magnification matrix row by row last
ODD = 6

#: of an MTF: beyond these it is a damaged number, whatever detector it is of
_HIGHEST, _LARGEST = 10.0, 10.0

#: 1/Å; radians there that optics do not turn phases by: a shift of 10 Å or a defocus of 1 µm that poses and CTFs do not
#: hold, and beside that lenses (a beam tilt of 8 mrad: 0.5)
_COARSE, _MOST_PHASE = 0.1, (2 * np.pi, 0.5)

#: more groups than this are one for each particle or nearly so, and each costs planes of an image's size
_MOST_GROUPS = 1000


def relion_aberrations(path: Path, optics: pd.DataFrame, group: np.ndarray, supplied: dict, number) -> Aberrations:
    """Of the groups of a RELION optics table.

    group : (g,) int64, their numbers
    supplied : what the user gave instead of columns
    number : (label, default) → (g,) float64 of the optics table

    Raises
    ------
    UserError
        naming file and line for a list of coefficients that cannot be read, or a beam tilt without Cs or voltage.
    """
    odd, even = (_lists(path, optics, label) for label in ("rlnOddZernike", "rlnEvenZernike"))
    tilt = np.stack([number(label, 0.0) for label in TILT], axis=1)
    if tilt.any():
        parts = {}
        for option, label in (("cs", "rlnSphericalAberration"), ("voltage", "rlnVoltage")):
            if supplied.get(option) is None and label not in optics:
                raise UserError(f"{path}: the beam tilt of the optics table needs {label}, which it lacks; give "
                                f"--{option}")
            given = supplied.get(option)
            parts[option] = number(label, 0.0) if given is None else np.full(len(group), float(given))
        odd = _add(odd, tilt_coefficients(tilt, parts["cs"], parts["voltage"]))
    matrix = np.stack([number(label, value) for label, value in MAGNIFICATION.items()], axis=1)
    order = np.argsort(group)
    matrix = matrix.reshape(-1, 2, 2)
    return Aberrations(group[order], matrix[order], odd[order], even[order], np.zeros((len(group), 0)))


def coma_beside_tilt(path: Path, optics: pd.DataFrame) -> list[str]:
    """A warning where coma is named both as a beam tilt and in rlnOddZernike: RELION then takes the tilt's alone."""
    if not any(label in optics for label in TILT) or not _lists(path, optics, "rlnOddZernike")[:, 3:5].any():
        return []
    return ["rlnOddZernike names coma, and rlnBeamTiltX and rlnBeamTiltY are there as well: both are corrected for "
            "here, but RELION puts the beam tilt, even of 0, in place of the coma"]


def _lists(path: Path, optics: pd.DataFrame, label: str) -> np.ndarray:
    """Coefficients written as [0.1,0,0], (g, longest) float64; short lists end in zeros."""
    if label not in optics:
        return np.zeros((len(optics), 0))
    rows = []
    for line, text in zip(optics.index, optics[label]):
        try:
            rows.append([float(part) for part in str(text).strip("[]").split(",") if part.strip()])
        except ValueError:
            raise UserError(f"{path}, line {line}: {label} is {text!r}, expected a list of numbers such as "
                            f"[0.1,0,0]") from None
    out = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(out, rows):
        row[: len(values)] = values
    return out


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two tables of coefficients, the shorter filled up with zeros."""
    out = np.zeros((len(a), max(a.shape[1], b.shape[1])))
    out[:, : a.shape[1]] += a
    out[:, : b.shape[1]] += b
    return out


def set_groups(comm: Communicator, table: ParticleTable) -> None:
    """Where particles have optics of their own (table.own), make groups of those that share them; collective.

    Groups keep their numbers where all their particles agree, and are numbered anew, from 1, where they do not. Sets
    table.optics_group and table.aberrations on all ranks alike.
    """
    width = comm.allreduce_scalar(0 if table.own is None else table.own.shape[1], "max")
    if not width:
        return
    own = table.own
    if own is None:  # a slab without any, of a file that has some
        own = np.zeros((len(table), width))
        own[:, -4:] = np.eye(2).reshape(-1)
    rows = pd.DataFrame(np.column_stack([table.optics_group, own]))
    which = rows.groupby(list(rows.columns), sort=False).ngroup().to_numpy()
    mine = rows.drop_duplicates().to_numpy()
    known = np.unique(np.concatenate(comm.allgather(mine)), axis=0)
    if len(known) > _MOST_GROUPS:
        raise UserError(f"{table.path}: aberrations or magnification take {len(known)} different values, more than the "
                        f"{_MOST_GROUPS} optics groups that are possible; group the particles first")
    anew = len(np.unique(known[:, 0])) < len(known)
    number = 1 + np.arange(len(known)) if anew else known[:, 0].astype(np.int64)
    local = np.array([np.flatnonzero((known == row).all(axis=1))[0] for row in mine])
    table.optics_group = number[local[which]].astype(np.int32)
    if anew:
        table.notes.append(f"aberrations or magnification differ within optics groups: {len(known)} groups are made, "
                           "one for each combination")
    odd, even = (part if part.any() else part[:, :0] for part in np.split(known[:, 1:-4], [ODD], axis=1))
    table.aberrations = Aberrations(number, known[:, -4:].reshape(-1, 2, 2), odd, even, np.zeros((len(known), 0)))


def put_optics(columns: StarColumns, found: ParticleTable) -> None:
    """Aberrations, magnification and MTFs: of the optics table, or before RELION 3.1 of the particles."""
    optics = columns.optics
    if optics is None:
        if not columns.reading.no_ctf and any(
            label in columns.particles and columns.number(label).any() for label in TILT
        ):
            tilt = np.stack([columns.number(label, 0.0) for label in TILT], axis=1)
            odd = tilt_coefficients(tilt, found.ctf["cs_mm"], found.ctf["voltage_kv"])
            found.own = np.column_stack([odd, *(np.full(len(found), value) for value in MAGNIFICATION.values())])
        return
    group = columns.optics_groups()

    def number(label: str, default: float) -> np.ndarray:
        return columns.of_groups(label) if label in optics else np.full(len(optics), default)

    if columns.reading.no_ctf:  # what images have none of, neither lens nor detector did
        matrix = np.stack([number(label, value) for label, value in MAGNIFICATION.items()], axis=1)
        order, none = np.argsort(group), np.zeros((len(group), 0))
        found.aberrations = Aberrations(group[order], matrix[order].reshape(-1, 2, 2), none, none, none)
        return
    found.aberrations = relion_aberrations(columns.path, optics, group, columns.supplied, number)
    found.warnings += coma_beside_tilt(columns.path, optics)
    if "rlnMtfFileName" in optics:
        if "rlnMicrographOriginalPixelSize" not in optics:
            if optics["rlnMtfFileName"].nunique() > 1:
                raise UserError(f"{columns.path}: rlnMtfFileName needs rlnMicrographOriginalPixelSize in the optics "
                                f"table")
            return
        original = columns.of_groups("rlnMicrographOriginalPixelSize").tolist()
        found.mtf = dict(zip(group.tolist(), zip(map(str, optics["rlnMtfFileName"]), original)))


def describe(aberrations: Aberrations | None) -> list[str]:
    """What is corrected for, as notes."""
    parts = [] if aberrations is None else aberrations.corrected()
    return [f"corrected for: {'; '.join(parts)}"] if parts else []


def unlikely(aberrations: Aberrations | None) -> list[str]:
    """Warnings of aberrations that no microscope has, as where columns are in other units: by what they do at 10 Å."""
    if aberrations is None:
        return []
    texts = []
    for name, coefficients, order, powers in (
        ("odd aberrations (beam tilt rlnBeamTiltX/Y in mrad, rlnOddZernike, ctf/tilt_A)", aberrations.odd, odd_order,
         (1, 3)),
        ("even aberrations (rlnEvenZernike, ctf/tetra_A)", aberrations.even, even_order, (2, 4)),
    ):  # fmt: skip
        phase = np.array([_phases(row, order, *powers) for row in coefficients])
        if (beyond := (phase > _MOST_PHASE).any(axis=1)).any():
            row = int((phase / _MOST_PHASE).max(axis=1).argmax())
            texts.append(f"{name} turn phases by {phase[row].max():.3g} radians at {1 / _COARSE:g} Å in optics group "
                        f"{aberrations.group[row]} ({int(beyond.sum())} of {len(phase)} groups turn them by too much): "
                        "no microscope does. Is a column in another unit or order? Mend it, or give "
                        "--ignore-aberrations")
    return texts


def _phases(coefficients: np.ndarray, order, first: int, last: int) -> np.ndarray:
    """Radians at _COARSE of the parts that go with the powers `first`, shift or defocus, and `last`, (2,): each in the
    direction where it is most."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    none, half, whole = (zernike_sum(coefficients, order, k * np.cos(angle), k * np.sin(angle))
                         for k in (0.0, _COARSE / 2, _COARSE))
    high = (whole - none - 2**first * (half - none)) / (1 - 2.0 ** (first - last))
    return np.abs([whole - none - high, high]).max(axis=1)


def mtf_curves(
    comm: Communicator, table: ParticleTable, box: int, pixel_size: np.ndarray, data_dir
) -> np.ndarray | None:
    """The detector's transfer of each group over the mean of all, (g, box // 2 + 2) at 0, 1, 2 … Fourier pixels.

    pixel_size : (g,) Å of each group's images as they will be stored. None where all groups share one MTF: as in
        RELION, nothing is relative then. Adds a warning and returns None where a file is missing. Collective.
    """
    if len(set(table.mtf.values())) < 2:
        return None
    found, warning = None, None
    with together(comm):
        if comm.rank == 0:
            try:
                found = _relative(table, box, pixel_size, data_dir)
            except FileNotFoundError as error:
                warning = f"the MTFs of optics groups differ (rlnMtfFileName) and are not applied: {error}"
    found, warning = comm.bcast((found, warning))
    if warning is not None:
        table.warnings.append(warning)
    return found


def mtf_files(table: ParticleTable, data_dir) -> list[Path]:
    """The MTFs that `mtf_curves` reads, as far as they are found."""
    found = []
    for name in dict.fromkeys(name for name, _ in table.mtf.values()) if len(set(table.mtf.values())) > 1 else ():
        with suppress(FileNotFoundError):
            found.append(_located(name, table, data_dir))
    return found


def _located(name: str, table: ParticleTable, data_dir) -> Path:
    try:
        return locate_stacks([name], table.path, [0], data_dir=data_dir)[0][0]
    except UserError:
        raise FileNotFoundError(f"{name} is not found") from None


def _relative(table: ParticleTable, box: int, pixel_size: np.ndarray, data_dir) -> np.ndarray:
    frequency = np.arange(box // 2 + 2) / (box * pixel_size[:, None])  # 1/Å
    curves = []
    for row, group in enumerate(table.aberrations.group.tolist()):
        name, original = table.mtf[group]
        curves.append(np.interp(frequency[row] * original, *read_mtf(_located(name, table, data_dir))))
    curves = np.array(curves)
    return curves / curves.mean(axis=0)


def read_mtf(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(frequency in 1/pixel, transfer) of a STAR file as RELION's post-processing takes it."""
    labels = ("rlnResolutionInversePixel", "rlnMtfValue")
    table = next((t for t in read_star(path).values() if all(label in t for label in labels)), None)
    if table is None:
        raise UserError(f"{path} is no MTF: no table has the columns {' and '.join(labels)}")
    frequency, value = (pd.to_numeric(table[label], errors="coerce").to_numpy(np.float64) for label in labels)
    rising = len(frequency) and (np.diff(frequency) > 0).all() and (np.abs(frequency) <= _HIGHEST).all()
    if not (rising and (value > 0).all() and (value <= _LARGEST).all()):
        raise UserError(f"{path}: an MTF needs rising frequencies (1/pixel) and positive values near 1 and below")
    return frequency, value
