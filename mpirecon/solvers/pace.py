"""How far the passes of a run are, and where they may end early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.stopping import StopSignals


class Pace:
    """What passes call as they go.

    console : shows the progress
    stop : signals to end
    """

    def __init__(self, comm: Communicator, console, stop: StopSignals | None = None) -> None:
        self._comm, self._console, self.stop = comm, console, stop or StopSignals()
        self._bar = None

    @contextmanager
    def showing(self, total: int, label: str, **how) -> Iterator[None]:
        """Show how far the passes within are; arguments as for the console's ``progress``."""
        with self._console.progress(total, label, **how) as bar:
            outer, self._bar = self._bar, bar
            try:
                yield
            finally:
                self._bar = outer

    def advance(self, particles: int) -> None:
        """So many particles are done."""
        self.safe_point()
        if self._bar is not None:
            self._bar.update(particles)

    def safe_point(self) -> None:
        """Where the ranks' work may end early, inside `together`: raises StopRequested when it should."""
        self._comm.activity.step()
        self.stop.check()
        self._comm.heed()
