"""``null``: the reconstruction as it is, on noise in place of the images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mpirecon.io.run_kinds import NULL
from mpirecon.io.run_log import RankLog
from mpirecon.io.run_output import write_summary
from mpirecon.operators.background import Background
from mpirecon.parallel.comm import Communicator, together
from mpirecon.solvers.config import Config
from mpirecon.solvers.groups import half_map
from mpirecon.solvers.normalise import OFF
from mpirecon.solvers.main import about_run
from mpirecon.solvers.place import open_run
from mpirecon.solvers.run import Reconstruction
from mpirecon.validate.fsc import fsc
from mpirecon.validate.fsc_table import write_fsc_csv
from mpirecon.validate.masks import independent_share
from mpirecon.validate.null import NoiseFile, assess


def run_null(
    comm: Communicator, particles: Path, output: Path, config: Config, console, *, overwrite: bool,
    reading: Mapping | None = None
) -> bool:
    """Reconstruct from noise with the spectra of the set's own images, and test the half-map FSC.

    Writes null.json, fsc.csv and logs/ into the folder `output`. Returns, on all ranks, whether the selection made no
    resolution. Raises UserError, on all ranks alike, for what a user can mend.
    """
    start = time.time()
    with open_run(comm, particles, output, NULL, config, console, reading, overwrite=overwrite) as (file, place):
        with RankLog.for_rank(None, comm, particles="none") as log:
            console.say(f"{file.path}: {len(file)} images replaced by noise of their own spectra, loss {config.loss}"
                        + (f" (keep {config.keep})" if config.keep else ""))
            background = None if config.normalise == OFF else Background(file.box)
            run = Reconstruction(comm, NoiseFile(file, config.seed, background), config, log, console)
            place.begin(log)
            result = _assessed(run, run.run())
            with together(comm):
                if comm.rank == 0:
                    _write(place.staging, run, result, about_run(start))
        place.commit()
    verdict = comm.bcast(result["verdict"] if comm.rank == 0 else None)
    console.say(verdict.sentence())
    console.say(f"wrote {place.path}: {NULL.left_in(place.path)}")
    return verdict.passed


def _assessed(run: Reconstruction, outcome) -> dict:
    """Curves, verdict and the iterations' records; on rank 0. Collective."""
    first, second = outcome.maps.get(half_map(1)), outcome.maps.get(half_map(2))
    if run.comm.rank:
        return {}
    mask = run.engine.mask
    curves = {"fsc": fsc(first, second, mask), "fsc_unmasked": fsc(first, second)}
    shells = run.engine.backend.plane.shells
    verdict = assess(curves["fsc"], curves["fsc_unmasked"], run.file.box, independent_share(mask), shells - 1)
    return {"verdict": verdict, "curves": curves, "iterations": outcome.records}


def _write(folder: Path, run: Reconstruction, result: dict, about: dict) -> None:
    verdict, curves = result["verdict"], result["curves"]
    write_fsc_csv(folder / "fsc.csv", curves, run.file.box, run.file.pixel_size, overwrite=True)
    write_summary(folder / "null.json", {
        **about,
        "configuration": run.config.as_dict(),
        "particles": {"file": str(run.file.lasting), "count": len(run.file), "box": run.file.box,
                      "pixel_size": run.file.pixel_size},
        "passed": verdict.passed,
        "verdict": verdict.sentence(),
        "mean_fsc": verdict.mean,
        "mean_fsc_unmasked": verdict.mean_unmasked,
        "shells": [verdict.first, verdict.last],
        "limit": verdict.limit,
        "chance": verdict.chance,
        **{name: curve.tolist() for name, curve in curves.items()},
        "iterations": result["iterations"],
    })  # fmt: skip
