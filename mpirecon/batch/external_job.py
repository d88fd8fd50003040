"""RELION's protocol of an External job: markers of its end, the request to abort, and the table of its outputs.

RELION polls the job's folder for the first of the files that say how a job ended; without one a job runs for ever in
its list. Outputs are read from RELION_OUTPUT_NODES.star: 3.1 knows their kinds by number, 4 and later by label; each
passes over the other's columns. Names are those of Refine3D, in which PostProcess finds the other half map.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, temporary_name, write_failed
from mpirecon.io.file_names import as_bytes
from mpirecon.io.run_kinds import RECONSTRUCTION
from mpirecon.io.unfinished import state_of

SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{end}" for end in ("SUCCESS", "FAILURE", "ABORTED"))
ABORT_NOW = "RELION_JOB_ABORT_NOW"
NODES = "RELION_OUTPUT_NODES.star"

#: folder of the run within that of the job
RUN = "run"

KEPT, DISCARDED = "particles.star", "discarded.star"


class Kind(NamedTuple):
    """What a file is to RELION: its number in 3.1, its label from 4 on."""

    number: int
    label: str


PARTICLES = Kind(3, "ParticleGroupMetadata.star.relion")
HALF_MAP = Kind(10, "DensityMap.mrc.halfmap")
MAP = Kind(6, "DensityMap.mrc")
SHARPENED = Kind(11, "DensityMap.mrc")
MASK = Kind(7, "Mask3D.mrc")

#: name in the job's folder → (name in the run's, kind; None for what RELION has no use for)
RESULTS = {
    "run_half1_class001_unfil.mrc": ("half1.mrc", HALF_MAP),
    "run_half2_class001_unfil.mrc": ("half2.mrc", HALF_MAP),
    "run_class001.mrc": ("volume.mrc", MAP),
    "run_sharpened.mrc": ("sharpened.mrc", SHARPENED),
    "mask.mrc": ("mask.mrc", MASK),
    "report.html": ("report.html", None),
}


class ExternalJob:
    """The folder of a job. All paths start from the working folder, RELION's project,
    wherever the folder itself is given from."""

    def __init__(self, folder: str | os.PathLike) -> None:
        path = os.path.relpath(folder)
        self.folder = Path(folder if path.startswith(os.pardir) else path)

    @property
    def run(self) -> Path:
        return self.folder / RUN

    def targets(self) -> list[Path]:
        """The files that a finished job leaves beside its run."""
        return [self.folder / name for name in (*RESULTS, KEPT, DISCARDED, NODES)]

    def begin(self) -> None:
        """Take away the markers of an earlier end, and a request to abort that came before it:
        what is asked since stays. Raises UserError where the folder holds files of something else."""
        self._refuse_others()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--o {self.folder}: the folder of the job cannot be made ({error.strerror.lower()}); "
                            "RELION gives External/jobNNN/, from the project's folder") from error
        ends = [_changed(self.folder / name) for name in (SUCCESS, FAILURE, ABORTED)]
        ended, asked = max((when for when in ends if when is not None), default=None), _changed(self.folder / ABORT_NOW)
        if ended is not None and asked is not None and asked <= ended:
            (self.folder / ABORT_NOW).unlink(missing_ok=True)
        for name in (SUCCESS, FAILURE, ABORTED):
            (self.folder / name).unlink(missing_ok=True)

    def _refuse_others(self) -> None:
        """The names are those of Refine3D: beside no run of ours they are another job's, whose end is left as it is."""
        there = [path.name for path in self.targets() if os.path.lexists(path)]
        if not there or state_of(self.run) is not None or (self._summary.is_file() and self.made_run):
            return
        with suppress(OSError):
            mark(self.folder, FAILURE)
        raise UserError(f"--o {self.folder}: the folder holds {', '.join(there)}, which this job would replace, but no "
                        f"{RUN}/ of an earlier job of mpirecon. Give the folder of a new job, External/jobNNN/, as "
                        "RELION does, or remove what is not wanted any more")

    @property
    def _summary(self) -> Path:
        return self.run / RECONSTRUCTION.marker

    @property
    def made_run(self) -> bool:
        """Whether the finished run is a job's, by the words that its command ends with; also where it does not say."""
        try:
            words = shlex.split(json.loads(self._summary.read_text(encoding="utf-8"))["command"])
        except (OSError, ValueError, KeyError, TypeError):
            return True
        return words[-3:-2] == ["--threads"] and words[-1] in ("--resume", "--overwrite")

    @property
    def abort_asked(self) -> bool:
        """Whether RELION's user wants this job to end."""
        return (self.folder / ABORT_NOW).exists()

    def end(self, marker: str) -> None:
        """Say how the job ended: once, and last of all."""
        mark(self.folder, marker)
        (self.folder / ABORT_NOW).unlink(missing_ok=True)

    def take_results(self) -> None:
        """Give the run's results their names in the job's folder:
        as hard links, or copies where the file system has none."""
        try:
            for name, (source, _) in RESULTS.items():
                if (self.run / source).exists():
                    _link(self.run / source, self.folder / name)
                else:
                    (self.folder / name).unlink(missing_ok=True)  # of an earlier run in this folder
        except OSError as error:
            raise write_failed(self.folder / name, error) from error

    def write_nodes(self, tables: Iterable[str]) -> list[Path]:
        """RELION_OUTPUT_NODES.star of the results that are there, and these of the tables of particles;
        returns their paths."""
        kinds = {name: PARTICLES for name in tables} | {name: kind for name,
                                                        (_, kind) in RESULTS.items() if kind is not None}
        nodes = [(self.folder / name, kind) for name, kind in kinds.items() if (self.folder / name).exists()]
        columns = ("Name", "Type", "TypeLabel", "TypeLabelDepth")
        lines = ["", "# version 30001", "", "data_output_nodes", "", "loop_",
                 *(f"_rlnPipeLineNode{column} #{i}" for i, column in enumerate(columns, 1)),
                 *(f"{path.as_posix()} {kind.number} {kind.label} 1" for path, kind in nodes), "", ""]
        with atomic_path(self.folder / NODES, overwrite=True) as temporary:
            temporary.write_bytes(as_bytes("\n".join(lines)))
        return [path for path, _ in nodes]


def mark(folder: Path, marker: str) -> None:
    """Leave an empty file, unless the job's end was reported already."""
    if not any((folder / name).exists() for name in (SUCCESS, FAILURE, ABORTED)):
        (folder / marker).touch()


def _changed(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return None


def _link(source: Path, target: Path) -> None:
    temporary = temporary_name(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
