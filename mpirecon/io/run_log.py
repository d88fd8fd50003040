"""The log every rank keeps: ``rankNNNN.jsonl``, one JSON object a line, written through the standard logging module.

Lines are distinguished by their first field, ``event``: ``start`` (what this rank was really given), ``sort`` (the
counts of one sort), ``sort_particles`` (the same sort, particle by particle), ``message`` (what anybody logs under
``logging.getLogger("mpirecon")``), ``end``, and whatever a solver reports by `RankLog.event`.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from mpirecon import __version__

LOGGER = "mpirecon"

#: iterations for which each particle can be listed
LISTED = ("none", "last", "all")

#: particles in one sort_particles line: keeps lines readable by tools that load them whole
PARTICLES_PER_LINE = 50_000

#: the part of a path that is walked on pure noise
ON_NOISE = "noise"

#: particles beyond which only the run's last sort is listed where nobody says which: 50 bytes each, every time
_MOST_LISTED = 100_000

#: numbers as large as this may be seconds since 1970
_TIMES = 1e9

_ENVIRONMENT = ("SLURM_", "OMPI_COMM_", "PMIX_RANK", "PMI_", "PALS_", "PBS_", "LSB_", "MPI_LOCAL", "CUDA_VISIBLE",
                "OMP_", "OPENBLAS_NUM", "MKL_NUM", "NUMBA_NUM", "MPIRECON_", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV")
_SECRET = ("TOKEN", "JWT", "SECRET", "PASSW", "KEY", "COOKIE")


class RankLog:
    """One rank's log file, a context manager; ``RankLog.for_rank(folder, comm)`` is the usual way to make one.

    Parameters
    ----------
    folder : path, made if it is missing; None holds lines back until ``open(folder)``, and writes none if that is never
        called
    rank, size, local_rank : int
    hostname : str
    device : str
        what this rank computes on, e.g. ``"cpu"`` or a GPU's UUID
    particles : str
        whose particles to list: of ``"none"``, ``"last"`` (of the run; held in memory and written at the end) or
        ``"all"`` of the iterations. The counts of every sort are written anyway.
    argv : list of str or None
        arguments this rank was given; None takes sys.argv
    append : bool
        continue an existing file, for a run that is resumed
    run : int or None
        what distinguishes this start of the program from others whose lines are in the files, the same on all ranks
        and larger than of earlier ones
    """

    def __init__(self, folder, rank: int = 0, hostname: str = "", *, size: int = 1, local_rank: int = 0,
                 device: str = "cpu", particles: str = "none", argv: list[str] | None = None, append: bool = False,
                 run: int | None = None):
        if particles not in LISTED:
            raise ValueError(f"particles is {particles!r}, expected 'none', 'last' or 'all'")
        self.rank = rank
        self.particles = particles
        self.path = None if folder is None else self._place(folder)
        self._start = time.time()
        self._pending: list[dict] = []
        self._sorts = 0
        self._attach(append)
        self.event(
            "start", run=run, argv=list(sys.argv if argv is None else argv), size=size, local_rank=local_rank,
            host=hostname, user=user_name(), pid=os.getpid(), device=device, cwd=os.getcwd(), cpus=_usable_cpus(),
            versions=_versions(),
            environment=launcher_environment(),
        )

    @classmethod
    def for_rank(cls, folder, comm, **options) -> RankLog:
        """The log of this rank of a communicator; collective."""
        run = comm.bcast(time.time_ns() // 1_000_000)
        return cls(folder, comm.rank, comm.hostname, size=comm.size, local_rank=comm.local_rank, run=run, **options)

    def open(self, folder, append: bool = False) -> None:
        """Write into the folder's file from here on, and first what was held back."""
        self.path = self._place(folder)
        held, self._handler = self._handler, _Handler(self, append)
        self._logger.removeHandler(held)
        self._logger.addHandler(self._handler)
        for record in held.records:
            self._handler.handle(record)

    def _place(self, folder) -> Path:
        path = Path(folder) / f"rank{self.rank:04d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def event(self, name: str, **fields) -> None:
        """Write one line. NumPy numbers and arrays become JSON; floats keep 9 digits."""
        record = self._logger.makeRecord(LOGGER, logging.INFO, "", 0, name, (), None, extra={
            "fields": fields, "rank_log": self,
        })
        self._logger.handle(record)

    def sort_record(self, iteration: int, scope: str, batch, ids_before, distances_before, ids_after, distances_after,
                    kept_after, pose_error_after=None, *, part: str | None = None, **more) -> None:
        """Record one sort of this rank's particles: what came in, in which order it left, and what was kept.

        Parameters
        ----------
        iteration : int
        scope : str
            ``"batch"`` or ``"global"``: among which particles they were sorted
        batch : int or str
            what was sorted; several sorts of an iteration may share it, they are numbered as they come
        ids_before, ids_after : (m,) integers
            the same particles, in the order before and after sorting
        distances_before, distances_after : (m,) floats
        kept_after : (m,) bool
        pose_error_after : (m,) bool or None where errors were simulated; None where the truth is not known
        part : of the run whose particles these are not, such as its walk on noise
        more : numbers or short texts to keep with the counts, e.g. the threshold or which half
        """
        ids_before, ids_after = np.asarray(ids_before, np.int64), np.asarray(ids_after, np.int64)
        kept = np.asarray(kept_after, bool)
        wrong = None if pose_error_after is None else np.asarray(pose_error_after, bool)
        columns = {"distances_before": distances_before, "distances_after": distances_after, "kept_after": kept}
        _check_sort(ids_before, ids_after, columns, wrong)
        where = {"iteration": int(iteration), "scope": scope, "batch": batch, "sort": self._sorts}
        where |= {} if part is None else {"part": part}
        self._sorts += 1
        self.event(
            "sort", **where, sorted=len(kept), kept=int(kept.sum()), wrong=None if wrong is None else int(wrong.sum()),
            wrong_kept=None if wrong is None else int((wrong & kept).sum()), **more,
        )
        if self.particles == "none":
            return
        columns["pose_error_after"] = wrong
        record = {**where, "ids_before": ids_before, "ids_after": ids_after, **columns}
        if self.particles == "all":
            self._write_particles(record)
            return
        if self._pending and self._pending[0]["iteration"] != record["iteration"]:
            self._pending.clear()
        # copies: the caller may reuse its arrays before the run ends
        self._pending.append({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in record.items()})

    def part(self, name: str) -> PartLog:
        """The same log, for a part of the run: its lines have its name, and its sorts are not the run's."""
        return PartLog(self, name)

    def close(self, status: str = "ok") -> None:
        """Write what was held back and the ``end`` line, and let go of the file. A second call does nothing."""
        if self._handler is None:
            return
        try:
            for record in self._pending:
                self._write_particles(record)
            self.event("end", status=status)
        finally:
            self._pending.clear()
            self._detach()

    def __enter__(self) -> RankLog:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close("ok" if error is None else f"{kind.__name__}: {error}")

    def _write_particles(self, record: dict) -> None:
        total = len(record["ids_after"])
        for offset in range(0, max(total, 1), PARTICLES_PER_LINE):
            part = slice(offset, offset + PARTICLES_PER_LINE)
            listed = {k: v[part] for k, v in record.items() if isinstance(v, (np.ndarray, list, tuple))}
            self.event("sort_particles", **{**record, **listed, "offset": offset, "total": total})

    def _attach(self, append: bool) -> None:
        self._logger = logging.getLogger(LOGGER)
        self._restore = (self._logger.level, self._logger.propagate)
        self._handler = _Held(self) if self.path is None else _Handler(self, append)
        self._logger.addHandler(self._handler)
        self._logger.setLevel(min(self._logger.level or logging.INFO, logging.INFO))
        self._logger.propagate = False  # a root handler would print every particle list on the terminal

    def _detach(self) -> None:
        self._logger.removeHandler(self._handler)
        self._handler.close()
        self._handler = None
        if not any(isinstance(handler, (_Handler, _Held)) for handler in self._logger.handlers):
            self._logger.setLevel(self._restore[0])
            self._logger.propagate = self._restore[1]


class PartLog:
    """A rank's log as a part of the run writes it."""

    def __init__(self, log: RankLog, name: str) -> None:
        self._log, self._name = log, name

    def event(self, name: str, **fields) -> None:
        """As of RankLog."""
        self._log.event(name, **fields, part=self._name)

    def sort_record(self, *arguments, **named) -> None:
        """As of RankLog."""
        self._log.sort_record(*arguments, **named, part=self._name)


class _Held(logging.Handler):
    """Keeps records until there is a file for them."""

    def __init__(self, owner: RankLog) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.addFilter(lambda record: getattr(record, "rank_log", owner) is owner)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _Handler(logging.FileHandler):
    """A file of JSON lines that raises when it cannot write, because a log with holes is worse than none."""

    def __init__(self, owner: RankLog, append: bool) -> None:
        super().__init__(owner.path, mode="a" if append else "w", encoding="utf-8")
        self._owner = owner
        self.addFilter(lambda record: getattr(record, "rank_log", owner) is owner)

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        if fields is None:  # an ordinary logging call somewhere in mpirecon
            event, fields = "message", {"level": record.levelname, "logger": record.name, "text": record.getMessage()}
        else:
            event = record.msg
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        # the event comes first and the iteration second: a join of logs skips long lines by how they begin
        first = {"event": event} | ({"iteration": fields["iteration"]} if "iteration" in fields else {})
        seconds = record.created - self._owner._start
        tail = {"rank": self._owner.rank, "time": moment, "seconds": round(seconds, 3)}
        return json.dumps({**first, **{k: to_json(v) for k, v in fields.items()}, **tail}, allow_nan=False)

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704  (called from inside an except block)


def usually_listed(particles: int) -> str:
    """Of which iterations so many particles are listed where nobody says it."""
    return "all" if particles <= _MOST_LISTED else "last"


def to_json(value):
    """NumPy and path values as JSON: floats to 9 digits (to milliseconds those that may be times since 1970), bool
    arrays as 0 and 1, NaN as null, infinity as "inf"."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and (np.abs(value) < _TIMES).all():  # of a million particles
            return [float(f"{v:.9g}") for v in value.tolist()] if value.ndim == 1 else [to_json(v) for v in value]
        plain = value.astype(np.int8) if value.dtype == bool else value
        return plain.tolist() if value.dtype.kind in "biu" else to_json(plain.tolist())
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float):
        if math.isfinite(value):
            return float(f"{value:.9g}") if abs(value) < _TIMES else round(value, 3)
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def user_name() -> str | None:
    """The user who runs this; None where the system knows no name for the user's number, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def launcher_environment(environ=os.environ) -> dict[str, str]:
    """The variables by which launcher, batch system and user steer this process; nothing that looks like a secret."""
    chosen = (n for n in sorted(environ) if n.startswith(_ENVIRONMENT) and not any(s in n.upper() for s in _SECRET))
    return {name: environ[name] for name in chosen}


def _check_sort(ids_before: np.ndarray, ids_after: np.ndarray, columns: dict, wrong: np.ndarray | None) -> None:
    m = len(ids_before)
    lengths = {name: len(column) for name, column in columns.items()}
    if wrong is not None:
        lengths["pose_error_after"] = len(wrong)
    if any(length != m for length in lengths.values()) or not np.array_equal(np.sort(ids_before), np.sort(ids_after)):
        raise ValueError(f"a sort of {m} particles must leave the same {m}; got {len(ids_after)} ids after, {lengths}")


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _versions() -> dict[str, str]:
    """Versions that decide the numbers; MPI's only where it is in use, since asking would start it."""
    versions = {"mpirecon": __version__, "python": platform.python_version(), "numpy": np.__version__}
    if "mpi4py.MPI" in sys.modules:
        import mpi4py

        versions["mpi4py"] = mpi4py.__version__
        library = sys.modules["mpi4py.MPI"].Get_library_version()
        versions["mpi"] = library.strip("\0 \n").splitlines()[0]
    return versions
