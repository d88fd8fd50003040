"""Short runs whose time and memory tell the constants of the model: simulated particles, reconstructed on this machine.

Each run is a process of its own, as a user's is, so that start-up counts and its peak memory is that of the run.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mpirecon.batch.forecast import Task
from mpirecon.batch.rank_table import Size
from mpirecon.errors import UserError
from mpirecon.parallel.launcher import find_launcher, without_launcher
from mpirecon.parallel.threads import default_memory
from mpirecon.robust.known_rules import rule_of
from mpirecon.solvers.config import Config

#: what a run's times hold and the model does not: the start, and kernels that are compiled once
_OUTSIDE = ("setup", "compile")

#: fraction of the particles of robust runs whose poses are wrong, and by how many degrees
_WRONG, _BY = 0.2, 4.0


@dataclass(frozen=True)
class Trial:
    """A reconstruction of simulated particles. Those of robust losses have small errors of poses.

    options : further options of reconstruct that a Config has, by its names
    """

    particles: int
    box: int
    loss: str = "l2"
    ranks: int = 1
    threads: int = 1
    options: dict = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return rule_of(self.loss).scores

    @property
    def asked(self) -> dict:
        keep = {"keep": 1 - _WRONG} if rule_of(self.loss).must_keep else {}
        return {"loss": self.loss, "threads": self.threads, **keep, **self.options}

    def task(self) -> Task:
        size = Size(self.particles, self.box, has_truth=self.wrong)
        return Task.of(size, Config(**self.asked), default_memory(self.ranks))

    def __str__(self) -> str:
        ranks = f"{self.ranks} ranks" if self.ranks > 1 else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.particles} × {self.box}², {self.loss}, {ranks}"


#: what `forecast --calibrate` runs: every phase in two boxes at least, and little of anything
TRIALS = (
    Trial(500, 32), Trial(4000, 64), Trial(1500, 128),
    Trial(6000, 32, "posterior"), Trial(2000, 64, "sorted", options={"iterations": 3}),
    Trial(500, 128, "posterior", options={"iterations": 3}),
    Trial(2000, 64, "posterior", ranks=2), Trial(1500, 128, ranks=2), Trial(4000, 64, threads=2),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a trial took: wall seconds of the process, of them those of each phase, bytes of the largest rank.
    Kernels that had to be compiled do not count: they are there from then on."""

    trial: Trial
    wall: float
    phases: dict[str, float]
    memory: int

    def as_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def of_dict(cls, found: dict) -> Measured:
        return cls(**{**found, "trial": Trial(**found["trial"])})


def run_trials(trials: Iterable[Trial], folder: Path, times: int = 2) -> Iterator[Measured]:
    """Run trials one after another, each so many times, of which the least of each time counts: of what disturbs a
    machine nothing makes a run faster. Particles and results are in `folder`."""
    for trial in trials:
        particles = folder / f"{trial.particles}_{trial.box}_{trial.wrong}.h5"
        if not particles.exists():
            errors = ("--orientation-error-rate", _WRONG, "--orientation-error", _BY) if trial.wrong else ()
            _run(["simulate", "--phantom", "--particles", trial.particles, "--box", trial.box, "--snr", 0.1, "-q", "-o",
                  particles, *errors])
        runs = [_measure(trial, particles, folder / "out") for _ in range(times)]
        shutil.rmtree(folder / "out")
        yield _least(runs)


def _least(runs: list[Measured]) -> Measured:
    phases = {phase: min(run.phases[phase] for run in runs) for phase in runs[0].phases}
    outside = min(run.wall - sum(run.phases.values()) for run in runs)
    return Measured(runs[0].trial, outside + sum(phases.values()), phases, min(run.memory for run in runs))


def _measure(trial: Trial, particles: Path, output: Path) -> Measured:
    options = [word for name, value in trial.asked.items() for word in (f"--{name.replace('_', '-')}", value)]
    start = time.perf_counter()
    _run(["reconstruct", particles, "-o", output, "--overwrite", "-q", *options], trial.ranks)
    wall = time.perf_counter() - start
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    phases = {phase: amount for phase, amount in summary["timings"].items() if phase not in _OUTSIDE}
    compiling = summary["timings"].get("compile", 0.0)
    return Measured(trial, wall - compiling, phases, summary["peak_memory_bytes"])


def find_mpirun() -> str | None:
    """The mpirun beside this Python (an MPI from PyPI), else the first on the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


def _run(arguments: list, ranks: int = 1) -> None:
    """Run mpirecon; its words are an error's."""
    command = [sys.executable, "-m", "mpirecon", *map(str, arguments)]
    command = [find_mpirun() or "mpirun", "-n", str(ranks), *command] if ranks > 1 else command
    environment = without_launcher(os.environ) if find_launcher() else os.environ  # ranks of ours are not a launcher's
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                           errors="replace")
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip()
        raise UserError(f"a trial run failed: {shlex.join(command)}\n{said}")
