"""How a run lives through signals, time limits and stalled ranks: when it saves its state, when it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from mpirecon.errors import UserError, spoken
from mpirecon.io.run_kinds import CHECKPOINT as NAME
from mpirecon.io.mrc import write_map
from mpirecon.io.unfinished import UNFINISHED
from mpirecon.parallel.comm import together
from mpirecon.parallel.stopping import StopRequested, StopSignals, signal_number
from mpirecon.solvers.groups import half_map
from mpirecon.solvers.resume import load, save
from mpirecon.solvers.state import State


@dataclass(frozen=True)
class Endurance:
    """Options of ``mpirecon reconstruct`` that do not change its result.

    every : iterations, or seconds where `every_seconds` is given, between two checkpoints
    signal : name of the one after which the iteration under way is finished and saved, if that takes no more than
        `grace` seconds
    kept : whether states are saved: not in a folder that goes with the process, where no run would find them
    stall_timeout : seconds without a step after which a rank ends the job, 0 for never.
    """

    every: int = 1
    every_seconds: float | None = None
    signal: str = "USR1"
    grace: float = 240.0
    stall_timeout: float = 1800.0
    kept: bool = True

    def __post_init__(self) -> None:
        signal_number(self.signal)
        if self.every < 1 or (self.every_seconds is not None and self.every_seconds <= 0):
            raise UserError("--checkpoint-every: expected iterations, at least 1, or a time such as 30m")

    def signals(self) -> StopSignals:
        return StopSignals(self.signal, self.grace)


@dataclass
class Checkpoints:
    """Saves a run into its folder after iterations, and ends it there when it received a signal to stop.

    saved : the last iteration whose state is in the folder, None before there is one
    """

    run: object
    folder: Path
    endurance: Endurance
    saved: int | None = None
    _last: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> str:
        """Where the run's state is, and how to resume from there; "" before anything was saved."""
        if self.saved is None:
            return ""
        return spoken(f"the state after iteration {self.saved}/{self.run.config.rounds} is in {self.folder / NAME}; "
                      f"continue with the same command and --resume")

    def load(self) -> State:
        """What the run continues from. Collective;
        raises UserError, on all ranks, where it cannot continue from there."""
        state, rounds = load(self.run, self.folder), self.run.config.rounds
        if state.iteration >= rounds:
            raise UserError(f"the checkpoint in {self.folder} is of iteration {state.iteration}, and {rounds} "
                            f"iterations are requested; request more with --iterations, or start a new run with "
                            f"--overwrite")
        self.saved = state.iteration
        return state

    def after(self, state: State) -> None:
        """Save if it is time to; raises StopRequested, on all ranks, if one of them received a signal to stop.
        Collective. After the last iteration there is nothing to continue."""
        run, iteration = self.run, state.iteration
        if iteration == run.config.rounds:
            return
        reports = run.comm.allgather((run.engine.pace.stop.received, self._due(iteration)))
        signal = next((name for name, _ in reports if name), None)
        if (signal or reports[0][1]) and self.endurance.kept:  # clocks differ: rank 0's decides
            first = self.saved is None
            with run.engine.timings("checkpoint"):
                save(run, self.folder, state)
                self.saved, self._last = iteration, time.monotonic()
                self._save_maps(state)
            if first:  # a rank that is killed, also by mpirun that was interrupted, has no time to say so
                run.console.say(f"  the run's state is saved in {self.folder / NAME} from now on, and its half maps in "
                                f"{self.folder / UNFINISHED}: if it ends early, the same command with --resume "
                                f"continues it")
        if signal:
            raise StopRequested(signal)

    def _save_maps(self, state: State) -> None:
        """The half maps as they stand, to be inspected while the run continues, and when it has ended early.
        Collective."""
        run, folder = self.run, self.folder / UNFINISHED
        for half in (1, 2):
            volume = state.maps.bring(half_map(half))
            with together(run.comm):
                if run.comm.rank == 0:
                    folder.mkdir(exist_ok=True)
                    write_map(folder / f"half{half}.mrc", volume, run.file.pixel_size, overwrite=True)

    def _due(self, iteration: int) -> bool:
        if self.endurance.every_seconds is not None:
            return time.monotonic() - self._last >= self.endurance.every_seconds
        return iteration % self.endurance.every == 0
