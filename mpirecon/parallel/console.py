"""What a command says while it runs: rank 0 alone, a bar on a terminal, plain lines in a batch log."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager

from mpirecon.errors import spoken
from mpirecon.parallel.lines import is_terminal, write_line

#: a batch log gets a progress line when this fraction more is done and these seconds have passed, …
_SHARE, _SECONDS = 0.1, 3.0
#: … or after this long anyway, so that a slow job shows that it lives
_HEARTBEAT = 30.0

#: a bar of something that is gone through several times
_WITHOUT_COUNTS = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Console:
    """Messages and progress of one command.

    Parameters
    ----------
    comm : Communicator or None
        None counts as a single rank
    quiet : bool
        errors and warnings only
    verbose : bool
        also the details, from every rank
    """

    def __init__(self, comm=None, quiet: bool = False, verbose: bool = False) -> None:
        self.rank = comm.rank if comm else 0
        self.size = comm.size if comm else 1
        self.quiet = quiet
        self.verbose = verbose and not quiet
        self._bar = None
        self._warned: set[str] = set()

    def say(self, text: str) -> None:
        """Print a line of the command's result or story: rank 0, to stdout."""
        if self.rank == 0 and not self.quiet:
            self._write(spoken(text), sys.stdout)

    def warn(self, text: str) -> None:
        """Print a warning, even when quiet: rank 0, to stderr; once, though it be given again at the end."""
        if self.rank == 0 and text not in self._warned:
            self._warned.add(text)
            self._write(f"Warning: {spoken(text)}", sys.stderr)

    def detail(self, text: str) -> None:
        """Print a line with --verbose: every rank with its number, to stderr."""
        if self.verbose:
            self._write(f"[rank {self.rank}] {text}" if self.size > 1 else text, sys.stderr)

    @contextmanager
    def progress(self, total: int, label: str, *, mine: int | None = None, further: int | None = None):
        """Show how far a loop is; yields an object with ``update(n)``, which any rank may call with what it did itself.

        Parameters
        ----------
        total : int
            of all ranks together
        mine : int, optional
            this rank's share, when it is not all: what rank 0 has done of its own stands for that of all ranks
        further : int, optional
            loops like this one that follow: what they will take is shown as well, and shares in place of counts
        """
        if self.rank > 0 or self.quiet:
            yield _Silent()
            return
        mine = total if mine is None else mine
        if is_terminal(sys.stderr):
            from tqdm import tqdm  # only where a bar is drawn

            with tqdm(total=total, desc=label, file=sys.stderr, leave=False, dynamic_ncols=True,
                      bar_format=None if further is None else _WITHOUT_COUNTS) as bar:
                outer, self._bar = self._bar, bar
                try:
                    yield _Bar(bar, total / max(mine, 1), further)
                finally:
                    self._bar = outer
        else:
            lines = _Lines(total, label, total / max(mine, 1), further)
            yield lines
            lines.close()

    def _write(self, text: str, stream) -> None:
        if self._bar is not None:
            self._bar.write(text, file=stream)  # lifts the bar out of the way
        else:
            write_line(text, stream)


class _Silent:
    def update(self, n: int = 1) -> None:
        pass


class _Bar:
    """Progress as a bar; each step counts `worth` of the total."""

    def __init__(self, bar, worth: float, further: int | None) -> None:
        self._bar, self._worth, self._further, self._done = bar, worth, further, 0

    def update(self, n: int = 1) -> None:
        self._done += n
        done = min(round(self._worth * self._done), self._bar.total)
        elapsed = self._bar.format_dict["elapsed"]
        if self._further and done:
            left = elapsed * ((1 + self._further) * self._bar.total / done - 1)
            self._bar.set_postfix_str(f"{_duration(left)} of all iterations left", refresh=False)
        self._bar.update(done - self._bar.n)


class _Lines:
    """Progress as a few lines of text; each step counts `worth` of the total."""

    def __init__(self, total: int, label: str, worth: float = 1.0, further: int | None = None) -> None:
        self.total, self.label = total, label
        self._worth, self._further, self._steps = worth, further, 0
        self.done = self._told = 0
        self._start = self._last = time.monotonic()
        self._spoke = False

    def update(self, n: int = 1) -> None:
        self._steps += n
        self.done = min(round(self._worth * self._steps), self.total)
        now = time.monotonic()
        waited = now - self._last
        step = (self.done - self._told) >= _SHARE * self.total
        if (step and waited >= _SECONDS and self.done < self.total) or waited >= _HEARTBEAT:
            self._report(now)

    def close(self) -> None:
        """Report the end, if the beginning was reported."""
        if self._spoke:
            self._print(f"{self.label}: done in {_duration(time.monotonic() - self._start)}")

    def _report(self, now: float) -> None:
        self._last, self._told, self._spoke = now, self.done, True
        elapsed = now - self._start
        left = f", about {_duration(elapsed * (self.total - self.done) / self.done)} left" if self.done else ""
        if self.done and self._further:
            left += f", {_duration(elapsed * ((1 + self._further) * self.total / self.done - 1))} of all iterations"
        counts = f" ({self.done}/{self.total})" if self._further is None else ""
        self._print(f"{self.label}: {100 * self.done // max(self.total, 1)} %{counts} after {_duration(elapsed)}{left}")

    @staticmethod
    def _print(text: str) -> None:
        write_line(text, sys.stderr)


def _duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 5 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
