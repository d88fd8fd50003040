"""A run under way: each rank's log, signals to stop, the watchdog, and how a run that ends early is resumed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpirecon.errors import UserError, spoken
from mpirecon.io.run_log import RankLog
from mpirecon.io.run_output import read_summary
from mpirecon.parallel.agree import RankFailed
from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.stopping import StopRequested, StopSignals
from mpirecon.parallel.watchdog import Watchdog
from mpirecon.solvers.endurance import Endurance
from mpirecon.solvers.place import Place


@contextmanager
def attended(
    comm: Communicator, endurance: Endurance, log_particles: str, state: Callable[[], str]
) -> Iterator[tuple[RankLog, StopSignals, Watchdog]]:
    """This rank's log, its signals to stop and its watchdog, for as long as a run lasts.

    state : where the run's state is and how to resume it; "" where nothing was saved yet
    """
    with (
        RankLog.for_rank(None, comm, particles=log_particles) as log, endurance.signals() as stop, _reported(state),
        Watchdog(comm, None, endurance.stall_timeout, lambda: f"; {state()}" if state() else "") as watchdog,
    ):  # fmt: skip
        yield log, stop, watchdog


def summary_of_complete(comm: Communicator, console, place: Place) -> dict:
    """The summary, on rank 0, of a run whose results were complete and are in their place now."""
    console.say(f"the results of this run were complete; they are in their place in {place.path} now")
    return read_summary(place.path) if comm.rank == 0 else {}


@contextmanager
def _reported(state: Callable[[], str]) -> Iterator[None]:
    """However a run ends early, say where its state is and how to resume it; `state` is empty where there is none."""
    try:
        yield
    except StopRequested as signal:
        how = f": {state()}" if state() else " before the first checkpoint: with --resume the run begins again"
        raise StopRequested(spoken(f"Stopped by {signal}{how}.")) from signal
    except KeyboardInterrupt as error:
        how = state() or "nothing was saved yet, the same command begins again"
        raise KeyboardInterrupt(spoken(f"Interrupted: {how}.")) from error
    except RankFailed:
        raise  # the rank that failed reports it
    except UserError as error:
        if not state():
            raise
        raise UserError(f"{error}. {state()[0].upper()}{state()[1:]}") from error
    except Exception as error:
        if state() and sys.version_info >= (3, 11):  # Python 3.10 has no notes
            error.add_note(f"{state()[0].upper()}{state()[1:]}.")
        raise
