"""``reconstruct`` reads as a sentence: open, log, run, write."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mpirecon import __version__
from mpirecon.io.file_names import as_argument
from mpirecon.io.inputs import given
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_kinds import RECONSTRUCTION
from mpirecon.io.run_log import LISTED, launcher_environment, user_name, usually_listed
from mpirecon.model.choices import check_choice
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator
from mpirecon.solvers.attended import attended, summary_of_complete
from mpirecon.solvers.config import Config
from mpirecon.solvers.controls import check_selection
from mpirecon.solvers.endurance import Checkpoints, Endurance
from mpirecon.solvers.place import open_run
from mpirecon.solvers.results import write_results
from mpirecon.solvers.run import Reconstruction

#: hosts whose ranks are listed when a run starts; of more, the rank logs tell
_HOSTS_NAMED = 8


def reconstruct(
    comm: Communicator, particles: Path, output: Path, config: Config, console, *, overwrite: bool,
    log_particles: str | None,
    controls: bool = False, resume: bool = False, postprocess: bool = True, endurance: Endurance = Endurance(),
    start_weights: np.ndarray | None = None, weights: np.ndarray | None = None, began: float | None = None,
    reading: Mapping | None = None, half_map_scores: bool = False, reference: Path | None = None,
) -> dict:
    """Run a reconstruction on the ranks of `comm` and write its files.

    particles : a particle file, or a table of RELION or cryoSPARC, whose stacks the run's own particle file then refers
        to
    log_particles : for which iterations the rank logs list each particle; None: as many as stay readable
    controls : also make the maps that show what the selection left out, and what leaving out at random does
    postprocess : also make mask.mrc, sharpened.mrc, and the FSC corrected for the mask
    resume : continue from the folder's checkpoint, if it has one
    start_weights : (m,) float, what the first map is made with, the same on all ranks
    weights : (m,) float, in place of those that `config` names; rank 0's are taken
    began : when the program did, Unix time, if it has done more than call this
    reading : how a table is read, fields of ImportOptions
    half_map_scores : also compare all particles with the final half maps, as ``score`` does, into the table of
        particles
    reference : a map to compare the reconstruction with, such as that which the particles were refined against

    Returns the summary on rank 0, an empty dict elsewhere. Raises, on all ranks alike, UserError for what a user can
    mend and StopRequested after a signal to stop.
    """
    start = time.time() if began is None else began
    check_choice("--log-particles", log_particles, (None, *LISTED))
    checkpoints = None

    def state() -> str:
        return "" if checkpoints is None else checkpoints.state

    with open_run(
        comm, particles, output, RECONSTRUCTION, config, console, reading, overwrite=overwrite, resume=resume
    ) as (file, place):  # fmt: skip
        if place.complete:
            return summary_of_complete(comm, console, place)
        if reference is not None:
            place.also_reads(given(reference=reference))
            run_first(comm, lambda: read_map(reference))  # that it is none is found now, not in the end
        with attended(comm, endurance, log_particles or usually_listed(len(file)), state) as (log, stop, watchdog):
            console.say(_opening(comm, file, config))
            run = Reconstruction(comm, file, config, log, console, start_weights, start, weights, stop=stop)
            place.begin(log)  # all that a user can have got wrong is found by now: before, no folder is made
            if place.complete:
                return summary_of_complete(comm, console, place)
            watchdog.share(place.logs / ".pulse")
            checkpoints = Checkpoints(run, place.path, endurance)
            outcome = run.run(checkpoints, place.resumes)
            found = check_selection(run, outcome, place.staging, controls)
            summary = write_results(run, outcome, place.staging, about_run(start) | found, postprocessed=postprocess,
                                    place=place.path, logs=place.logs, half_map_scores=half_map_scores,
                                    reference=reference)
            log.event("finished", seconds=time.time() - start)
        change = file.change() if comm.rank == 0 else None
        place.commit()
        if change:
            console.warn(f"{file.path} is not what it was when this run read it ({change}): the results are those of "
                         f"the file as it was")
    _conclude(console, place.path, summary)
    return summary


def _opening(comm: Communicator, file: ParticleFile, config: Config) -> str:
    ranks = "1 rank" if comm.size == 1 else f"{comm.size} ranks{_hosts(comm)}"
    images = (', CTF-premultiplied' if file.attributes['ctf_premultiplied'] else ', phase-flipped'
              if file.phase_flipped else '')
    how = config.loss + (f" (keep {config.keep})" if config.keep else "")
    aberrations = file.aberrations()
    corrected = [] if aberrations is None else aberrations.corrected()
    optics = f"\n  corrected for: {'; '.join(corrected)}" if corrected else ""
    return (
        f"{file.path}: {len(file)} particles, box {file.box}, {file.pixel_size:g} Å/px{images}; {ranks}, loss {how}, "
        f"distance {config.distance}, solver {config.solver}{optics}"
    )


def _hosts(comm: Communicator) -> str:
    """Which ranks are on which host, where there are several: a launcher that lost one names the host alone."""
    there: dict[str, list[str]] = {}
    for rank, host in enumerate(comm.allgather(comm.hostname)):
        there.setdefault(host, []).append(str(rank))
    if len(there) == 1:
        return ""
    listed = "; ".join(f"{', '.join(ranks)} on {host}" for host, ranks in there.items())
    return f" ({listed})" if len(there) <= _HOSTS_NAMED else f" on {len(there)} hosts"


def about_run(start: float) -> dict:
    """What a summary says of the program and the call: version, command line, start, libraries."""
    import h5py
    import numpy
    import scipy

    return {
        "program": "mpirecon",
        "version": __version__,
        "command": _command(),
        "user": user_name(),
        "folder": os.getcwd(),
        "environment": launcher_environment(),
        "started": datetime.datetime.fromtimestamp(start, datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - start, 3),
        "versions": {
            "python": platform.python_version(), "numpy": numpy.__version__, "scipy": scipy.__version__,
            "numba": version("numba"), "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version,
        },
    }  # fmt: skip


def _command() -> str:
    """The command line as it can be typed again; where the program is installed is left out."""
    program, name = Path(sys.argv[0]), "mpirecon"
    if program.name == "__main__.py":
        name = "python -m mpirecon"
    if program.name not in ("__main__.py", name):
        name = shlex.quote(as_argument(program))
    return f"{name} {shlex.join(sys.argv[1:])}"


def _conclude(console, folder: Path, summary: dict) -> None:
    if not summary:
        return
    resolution = summary["resolution_0143"]
    at = f"{resolution:.2f} Å" if resolution else f"Nyquist ({summary['nyquist']:g} Å)"
    from mpirecon.report.verdict import mask_in_words

    where = mask_in_words(summary).removeprefix("FSC 0.143 ")
    console.say(f"half-map FSC reaches 0.143 at {at} ({where}); {summary['seconds']:.1f} s")
    if summary["particles"]["skipped"]:
        skipped = summary["particles"]["skipped"]
        shown = ", ".join(map(str, skipped[:10])) + (" …" if len(skipped) > 10 else "")
        console.warn(f"{len(skipped)} bad images were skipped: particles {shown}")
    for text in summary["warnings"]:
        console.warn(text)
    console.say(f"wrote {folder}: {RECONSTRUCTION.left_in(folder)}")
