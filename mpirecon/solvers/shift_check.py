"""Whether the images contradict the shifts that a run was given, found by its first maps."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.reading import SHIFT_AXES
from mpirecon.model.symmetry import PointGroup
from mpirecon.parallel.comm import together
from mpirecon.solvers.groups import MapSet, half_map
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.slab_data import uniform_hash
from mpirecon.validate.conventions import Convention
from mpirecon.validate.low_slices import LowSlices, low_passed, low_side
from mpirecon.validate.shift_conventions import ShiftSample

#: particles that are compared, and those where the first do not agree best with the given shifts; images read at a time
_FEW, _MORE, _BATCH = 250, 2000, 64

#: particles of a set below which nothing can be decided
_LEAST = 100

#: shell that the first are compared to, at most
_COARSE = 14

#: standard deviations, and times as much that is predicted without a point group, by which it is not the particle's
_SURE, _TIMES = 5.0, 1.05

#: relative difference of two units that is no rounding
_ROUNDING = 0.01

#: sets the draw apart from the others of the seed
_DRAW = 0x5417


def check_shifts(engine: Engine, references: MapSet, seed: int, console) -> dict:
    """Compare some particles with the other half's map at the given shifts and at others; collective.

    Nothing is selected by it. Where other shifts fit clearly better, the console warns.

    Returns
    -------
    dict
        for the iteration's record: ``shifts``, what ShiftEvidence has and the ``warning``; empty where the box or
        the set is too small to tell
    """
    last = ShiftSample.last_shell(engine.box // 2 - 2, (references.box - 1) // 2 - 1, engine.backend.plane.shells - 1)
    if last is None or engine.slab.total < _LEAST:
        return {}
    sample = _sampled(engine, references, seed, min(last, _COARSE), _FEW)
    asymmetric = _check_symmetry(sample, engine.symmetry.group, console)
    evidence = sample.checked()
    if evidence.may_be:
        suspected = [evidence.conventions[number] for number in evidence.may_be]
        evidence = _sampled(engine, references, seed, last, _MORE).decided(suspected)
    warning = None
    reported = evidence if evidence.better is not None else evidence.part
    if reported is not None:
        with together(engine.comm):
            whole = reported is evidence
            remedy = _remedy(engine.slab.file, reported.better, whole) if engine.comm.rank == 0 else None
        warning = engine.comm.bcast(f"{reported.sentence()}. {remedy}")
        console.warn(warning)
    return {"shifts": evidence.as_dict() | {"warning": warning}} | asymmetric


def _check_symmetry(sample: ShiftSample, group: PointGroup, console) -> dict:
    """Warn where a sample's maps predict more without the point group; returns that for the record. Collective."""
    if len(group) == 1:
        return {}
    without, with_, sigmas = sample.symmetric(group.matrices)
    warning = None
    if sigmas > _SURE and without > _TIMES * with_:
        more = f"{without / with_:.3g} times as much" if with_ > 0 else "more"
        warning = (
            f"the images contradict --symmetry {group.name}: low-resolution maps of either half set predict {more} of "
            f"the other half's images without it ({sigmas:.0f} standard deviations). Is it the particle's, and are its "
            "axes those that the poses were found with?"
        )
        console.warn(warning)
    return {"symmetry": {"without": without, "with": with_, "sigmas": sigmas, "warning": warning}}


def _sampled(engine: Engine, references: MapSet, seed: int, last: int, most: int) -> ShiftSample:
    """Some of the particles, beside the other half's map; the same ones on any number of ranks. Collective."""
    comm, slab = engine.comm, engine.slab
    drawn = slab.valid & (slab.given > 0) & (uniform_hash(slab.ids, seed + _DRAW) < most / max(slab.total, 1))
    flipped, multiplied = slab.metadata.ctf_phase_flipped, engine.backend.premultiplied
    sample = ShiftSample(comm, engine.box, engine.backend.pixel_size, last, flipped, multiplied)
    for half in (1, 2):
        volume = _low_map(references, 3 - half, last)
        with together(comm), engine.timings("statistics"):
            rows = np.flatnonzero(drawn & (slab.metadata.half == half))
            slices = LowSlices(volume, last) if len(rows) else None
            for first in range(0, len(rows), _BATCH):
                part = rows[first : first + _BATCH]
                noise = engine.found.noise_power[slab.noise_group[part]]
                sample.add(slab.images(part), slab.ids[part], slab.metadata[part], slices, noise)
    with together(comm):
        slab.file.refuse_changed()
    return sample


def _low_map(references: MapSet, half: int, last: int) -> np.ndarray:
    """A half map at its low frequencies alone, which are all that travels between ranks; collective."""
    comm, made_of = references.comm, half_map(half)
    with together(comm):
        whole = references.owned(made_of)
        if whole is None:
            low = np.empty((low_side(references.box, last),) * 3, np.float32)
        else:
            low = np.ascontiguousarray(low_passed(whole, last), np.float32)
    return low if comm.size == 1 else comm.bcast_array(low, references.owner(made_of))


def shift_warnings(records: Iterable[dict]) -> list[str]:
    """What was warned of in the iterations of these records."""
    return [record[what]["warning"] for record in records for what in ("shifts", "symmetry")
            if (record.get(what) or {}).get("warning")]


def _remedy(file: ParticleFile, better: Convention, whole: bool) -> str:
    """What a user can do about it: the import's options that make the given shifts, of the whole set or of a part,
    these."""
    path, _ = file.source()
    if better.of == "angles" and "inverse" in better.words:
        return (
            "If the rotations are so, write them the other way round: Rot, Tilt, Psi as -Psi, -Tilt, -Rot, or "
            "alignments3D/pose with the other "
            "sign; no option of the import inverts them"
        )
    if better.of == "angles":
        return (
            "If the angles are so, as those of a program with other Euler angles, write them as RELION counts them "
            "(degrees, Rz(Psi) Ry(Tilt) Rz(Rot)), and see which hand the map has; no option of the import turns angles"
        )
    if better.of == "images":
        return (
            "If the stack was written so, as by a program that counts rows from the other end, write it again in "
            "the axes that the poses are of; "
            "no option of the import turns images"
        )
    if better.offset != (0, 0):
        x, y = (f"{0 - file.pixel_size * pixels:.4g}" for pixels in better.offset)
        return (
            f"If the images were cropped or centred about another pixel, extract them again, or add {x} and {y} Å to "
            "rlnOriginXAngst and rlnOriginYAngst, in pixels of alignments3D/psize_A to alignments3D/shift"
        )
    if not path:
        return "Check where they come from: this particle file was not imported from a table"
    options = json.loads(file.attributes.get("provenance") or "{}").get("options") or {}
    said = (options.get("units") or {}).get("shift")
    matrix = SHIFT_AXES[better.axes] @ SHIFT_AXES[options.get("shift_axes", "x,y")]
    if said is not None and said.startswith("-"):
        matrix = -matrix
    axes = next(name for name, known in SHIFT_AXES.items() if np.array_equal(known, matrix))
    unit = _unit(file, said, better.factor)
    if axes == "-x,-y":
        given, axes = f"--unit shift=-{unit}", "x,y"
    else:
        given = "" if better.factor == 1 and said is None else f"--unit shift={unit}"
    given = " ".join(filter(None, (given, "" if axes == "x,y" else f"--shift-axes={axes}")))
    dropped = "without --shift-axes" if axes == "x,y" and options.get("shift_axes", "x,y") != "x,y" else ""
    how = " and ".join(filter(None, (given and f"with {given}", dropped)))
    if not whole:
        return f"If the shifts of these rows of {path} are so, import them apart (--select) {how}, or mend them there"
    return (
        f"If the shifts of {path} are so, import it again {how}; else see whether its rows and stacks belong together"
    )


def _unit(file: ParticleFile, said: str | None, factor: float) -> str:
    """The table's shifts count in this unit, if they are `factor` times as long as they were taken for."""
    name = (said or _own_unit(file)).lstrip("-")
    angstrom = {"A": 1.0, "pixel": file.pixel_size}.get(name)
    angstrom = (float(name) if angstrom is None else angstrom) * factor
    for word, size in (("A", 1.0), ("pixel", file.pixel_size)):
        if abs(angstrom / size - 1) < _ROUNDING:
            return word
    return f"{angstrom:.4g}"


def _own_unit(file: ParticleFile) -> str:
    """That in which the format has shifts."""
    array = file.source_arrays().get("particles")
    if array is not None:
        pixel = array["alignments3D/psize_A"] if "alignments3D/psize_A" in array.dtype.names else np.zeros(1)
        return f"{float(np.median(pixel)):.6g}" if (pixel > 0).all() else "pixel"
    _, tables = file.source()
    return "A" if any("rlnOriginXAngst" in table for table in tables.values()) else "pixel"
