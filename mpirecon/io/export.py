"""Export of a finished run: kept and discarded particles as RELION STAR or cryoSPARC .cs files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, refuse_existing
from mpirecon.io.export_found import found_note, found_poses
from mpirecon.io.export_simulated import simulated_rows
from mpirecon.io.file_names import as_file_name
from mpirecon.io.formats import STAR, TableFormat, TableWriter, check_ending, format_of, formats
from mpirecon.io.inputs import Input, refuse_inputs
from mpirecon.io.mrc import write_stack
from mpirecon.io.optics_table import read_mtf
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.replaced import MRC, NUMPY
from mpirecon.io.replaced import STAR as STAR_FILE
from mpirecon.io.run_inputs import run_inputs
from mpirecon.io.run_output import open_particles, read_particle_table, read_summary
from mpirecon.io.stack_contrast import contrast_warning, rescaled, untold
from mpirecon.model import Pose
from mpirecon.model.choices import check_choice

_BATCH_BYTES = 32 * 1024 * 1024  # images in memory at once
_SAME_STEP = 5e-4  # fractions of a path that are reported with three digits

#: kinds of files that are written, by the ending of their names
_WRITES = {".cs": NUMPY, ".mrcs": MRC}

#: what `ExportOptions.poses` and `coordinates` can be
POSES, COORDINATES = ("original", "used"), ("as-stored", "flipped")


@dataclass
class ExportOptions:
    """What to export where.

    star, cs : of the kept particles; discarded : of the others, .star or .cs; stack : .mrcs for the images of all these
    particles : the particle file, where it is not where the run found it
    coordinates : of particles of a .cs file on micrographs, ``"as-stored"`` or ``"flipped"`` in y; None leaves them out
    mtf : (optics group or None for all, MTF file), to be named in STAR files
    step : of a path, the fraction whose particles count as kept; None: the best step's
    poses : ``"original"`` (of the source; the true ones where errors were simulated, and defoci) or ``"used"`` (by the
        run)
    """

    star: Path | None = None
    discarded: Path | None = None
    cs: Path | None = None
    stack: Path | None = None
    particles: Path | None = None
    poses: str = "original"
    step: float | None = None
    coordinates: str | None = None
    mtf: Sequence[tuple[int | None, Path]] = ()
    overwrite: bool = False


@dataclass
class ExportReport:
    """What was written: (file, what it holds), and sentences for the user; warnings : of what other programs would get
    wrong."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def export_run(
    folder: str | os.PathLike, options: ExportOptions,
    progress: Callable[[int], AbstractContextManager] | None = None,
) -> ExportReport:
    """Write the particles of a run to the files that `options` names; each appears complete or not at all.

    Raises
    ------
    UserError
        when the folder is no finished run, its particle file is gone or another one, a target exists, or the format
        asked for cannot hold these particles.
    """
    targets = _targets(options)
    transfer = (Input("MTF", path) for _, path in options.mtf)
    refuse_inputs(targets, chain(run_inputs(folder, options.particles), transfer))
    _check_options(options)
    for target in targets:
        refuse_existing(target, options.overwrite, writes=_WRITES.get(target.suffix.lower(), STAR_FILE))
    summary = read_summary(folder)
    with open_particles(Path(folder), summary, options.particles) as file:
        run = _read_run(Path(folder), file)
        if options.step is not None:
            run |= _of_step(Path(folder), run, options.step)
        kept = run["kept"].astype(bool)
        wanted = [(options.star, kept), (options.cs, kept), (options.discarded, ~kept)]
        wanted = [(Path(path), rows) for path, rows in wanted if path is not None]
        export = Export(file, run, options)
        export.check(wanted)
        rows = np.flatnonzero(np.logical_or.reduce([rows for _, rows in wanted]))
        # all appear or none: an older table beside a newer stack would name the images of others
        with ExitStack() as files:
            temporary = {path: files.enter_context(atomic_path(path, options.overwrite)) for path in targets}
            if options.stack is not None:
                export.write_images(rows, progress, temporary[Path(options.stack)])
            for path, chosen in wanted:
                export.write(path, chosen, temporary[path])
    report = export.report
    symmetry = (summary.get("configuration") or {}).get("symmetry") or "C1"
    if symmetry.upper() != "C1":
        report.notes.append(f"the run imposed {symmetry}, which is not recorded in particle files: relion_reconstruct "
                            f"needs --sym {symmetry}")
    last = (summary.get("iterations") or [{}])[-1]
    if (compared := last.get("scored")) is not None and compared < last["valid"]:
        report.notes.append(f"the run compared {compared:,} of {last['valid']:,} particles: the others have no scores; "
                            f"reconstruct --particle-scores compares all")
    report.notes = list(dict.fromkeys(report.notes))
    return report


def _targets(options: ExportOptions) -> list[Path]:
    """The files to write; UserError where there are none, or two of one name."""
    if options.star is None and options.cs is None and options.discarded is None:
        raise UserError("nothing to export: give --star FILE, --cs FILE or --discarded FILE")
    targets = [Path(t) for t in (options.star, options.cs, options.discarded, options.stack) if t is not None]
    if len({target.resolve() for target in targets}) < len(targets):
        raise UserError("two of --star, --cs, --discarded and --stack name the same file; each needs its own")
    return targets


def _check_options(options: ExportOptions) -> None:
    """Raise UserError for what cannot be, before anything is written."""
    check_choice("--poses", options.poses, POSES)
    check_choice("--coordinates", options.coordinates, (None, *COORDINATES))
    check_ending("--star", options.star)
    check_ending("--cs", options.cs, always=True)
    chosen = {_format(Path(path)) for path in (options.star, options.cs, options.discarded) if path is not None}
    for other in formats():
        given = [name for name in other.export_options if getattr(options, name)]
        if given and other not in chosen:
            raise UserError(f"{' and '.join(f'--{name}' for name in other.export_options)} are for {other.name}s; give "
                            f"--star FILE")
    for _, path in options.mtf:
        read_mtf(path)
    if options.discarded is not None and format_of(options.discarded) is None:
        raise UserError(f"--discarded {options.discarded}: the name must end in "
                        f"{' or '.join(f.suffix for f in formats())}, for the format")
    if options.stack is not None and Path(options.stack).suffix != ".mrcs":
        raise UserError(f"--stack {options.stack}: the name must end in .mrcs, by which RELION knows a stack of images")
    for path in (options.star, options.discarded) if options.stack is not None else ():
        # in image names RELION takes what follows one of these for the type of the file
        if path is not None and set(name := os.path.relpath(options.stack, Path(path).parent)) & set("#:"):
            raise UserError(f"--stack {options.stack}: {path} would name it {name}, and RELION reads no stack with # "
                            "or : in its name, or its folder's; choose another name")


def _read_run(folder: Path, file: ParticleFile) -> dict[str, np.ndarray]:
    """The run's particles.h5, one row per particle of the file, in its order."""
    path = folder / "particles.h5"
    if not path.is_file():
        raise UserError(f"{folder}: no particles.h5, so this is not the folder of a finished run")
    run = read_particle_table(path)
    missing = [name for name in ("id", "half", "kept", "weight") if name not in run]
    if missing:
        raise UserError(f"{path}: the columns {', '.join(missing)} are missing; this file is incomplete")
    order = np.argsort(run["id"], kind="stable")
    run = {name: values[order] for name, values in run.items()}
    if not np.array_equal(run["id"], np.arange(len(file))) or not np.array_equal(run["half"], file.halves()):
        raise UserError(f"{file.path} is not the particle file of the run in {folder}: its particles or half sets are "
                        "others; give the right one with --particles FILE")
    run["weight"] = np.nan_to_num(run["weight"], nan=0.0, posinf=0.0, neginf=0.0)
    return run


def _of_step(folder: Path, run: dict[str, np.ndarray], step: float) -> dict[str, np.ndarray]:
    """The columns kept and weight of another step of a path."""
    kept_to = run.get("kept_to")
    if kept_to is None:
        raise UserError(f"--step {step:g}: {folder} is not the folder of a path (mpirecon path), which has steps")
    there = np.unique(kept_to[kept_to > 0])[::-1]
    chosen = there[np.abs(there - step) <= _SAME_STEP]
    if not len(chosen):
        raise UserError(f"--step {step:g}: the path in {folder} has the steps {', '.join(f'{x:.3g}' for x in there)}")
    kept = (kept_to > 0) & (kept_to <= chosen[0])
    return {"kept": kept, "weight": kept.astype(np.float64)}


class Export:
    """One export: the particle file, what the run found, and the tables made of both when they are needed."""

    def __init__(self, file: ParticleFile, run: dict[str, np.ndarray], options: ExportOptions) -> None:
        self.file, self.run, self.options = file, run, options
        source, self.tables = file.source()
        self.source = as_file_name(source)
        self.arrays = file.source_arrays()
        self.report = ExportReport()
        self.section = np.zeros(len(file), np.int64)  # of each particle in --stack, from 1
        self._writers: dict[TableFormat, TableWriter] = {}

    def check(self, wanted: list[tuple[Path, np.ndarray]]) -> None:
        """Refuse formats that cannot hold these particles, and an export without particles;
        an empty file beside others is noted."""
        kept = f"the run kept {int(self.run['kept'].sum())} of {len(self.run['kept'])}"
        empty = [path for path, rows in wanted if not rows.any()]
        if len(empty) == len(wanted):
            raise UserError(f"{empty[0]}: there are no such particles ({kept})")
        self.report.notes += [f"{path} has no rows: {kept}" for path in empty]
        if rescaled(self.file) and self.options.stack is not None:
            raise UserError(f"--stack: the images of {self.file.path} were rescaled at import, and the table refers to "
                            f"the original ones; export without --stack")
        if not (self.tables or self.arrays or self.options.stack):
            raise UserError(f"{self.file.path} was not imported, so its images are in no stack; give --stack FILE.mrcs "
                            "to write them together with the STAR file")
        for path, rows in wanted:
            self._writer(path).check(path)
            if self.options.stack is None and not _format(path).has_sign:
                remedy = "--stack FILE.mrcs writes them all with protein bright"
                self.report.warnings += filter(None, [contrast_warning(self.file, rows, path, remedy)])

    def say_untold(self, contrast: bool = False) -> None:
        """Note what a table that is written as it was does not say; contrast : it has signs, which were overruled."""
        self.report.notes += filter(None, [untold(self.file, contrast)])

    def write(self, path: Path, rows: np.ndarray, target: Path) -> None:
        """One table of the particles of `rows`, (m,) bool, to be named `path`, as `target`."""
        self._writer(path).write(path, rows, target)
        self.report.files.append((path, f"{int(rows.sum())} of {len(rows)} particles"))

    def _writer(self, path: Path) -> TableWriter:
        """One for all files of a format: its tables are made once."""
        form = _format(path)
        if form not in self._writers:
            self._writers[form] = form.writer(self)
        return self._writers[form]

    def write_images(self, rows: np.ndarray, progress, target: Path) -> None:
        """--stack, as `target`: the images of `rows`, protein bright, as float32 (RELION 3 reads no float16)."""
        file, path = self.file, Path(self.options.stack)
        sign = -1 if file.attributes["contrast"] == "black" else 1
        size = max(1, _BATCH_BYTES // (4 * file.box**2))
        with (
            write_stack(target, file.box, file.pixel_size, overwrite=True) as append,
            progress(len(rows)) if progress else nullcontext() as bar,
        ):
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                append(sign * file.images(batch))
                if bar is not None:
                    bar.update(len(batch))
            file.refuse_changed()
        self.section[rows] = 1 + np.arange(len(rows))
        self.report.files.append((path, f"{len(rows)} images"))
        if sign < 0:
            self.report.notes.append("protein was dark in the images: the stack has them negated, as RELION expects")

    def found(self) -> tuple[Pose | None, np.ndarray]:
        """(poses that the run used, rows whose pose is another than the given one)."""
        pose, rows = found_poses(self.run)
        if len(rows):
            self.report.notes.append(found_note(len(rows)))
        return pose, rows

    def writes_errors(self) -> bool:
        """Whether to write simulated errors instead of the original poses and defoci; notes which, if there are any."""
        words = {"pose": "wrong poses", "defocus": "wrong defoci"}
        simulated = simulated_rows(self.file.metadata())
        used = self.options.poses == "used" and any(map(len, simulated.values()))
        simulated["pose"] = np.setdiff1d(simulated["pose"], found_poses(self.run)[1])  # else what was found is written
        counts = {words[name]: len(rows) for name, rows in simulated.items() if len(rows)}
        if not counts:
            return used
        self.report.notes.append(
            f"{' and '.join(f'{count} simulated {what}' for what, count in counts.items())} are written, as used by "
            "the run, and the true values as mpireconTrue…" if used else
            f"{' and '.join(f'{count} {what}' for what, count in counts.items())} were simulated: the original ones "
            "are written (--poses used writes the simulated ones)"
        )
        return used


def _format(path: Path) -> TableFormat:
    """The format of a file to be written; RELION's where its name shows none."""
    return format_of(path) or STAR
