"""Joining the ranks' logs of a run: what was sorted where, what was kept,
and how many of the kept have simulated errors."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.log_records import checked

#: one row per particle of a sort; batch is text because solvers may name their sorts
SORTED_DTYPE = np.dtype(
    [
        ("iteration", "i4"),
        ("particle", "i8"),
        ("rank", "i4"),
        ("batch", "U24"),
        ("before", "i8"),
        ("after", "i8"),
        ("distance", "f8"),
        ("kept", "?"),
        ("pose_error", "i1"),  # 1 simulated error, 0 none, -1 not known
    ]
)

_PARTICLES = '{"event": "sort_particles", "iteration": '
_START = '{"event": "start"'
_LIST = re.compile(re.escape(_PARTICLES) + r"(\d{1,9}),")


@dataclass
class RunLogs:
    """The log files of a run, by rank, and what is wrong with them."""

    folder: Path
    files: dict[int, Path]
    size: int
    warnings: list[str] = field(default_factory=list)


@dataclass
class IterationCounts:
    """The sorts of one iteration, added up over ranks and batches; wrong counts are None where no truth is known.

    kept_found : particles that are kept besides, at poses that were found or refined; None where none were searched
    """

    iteration: int
    scope: str
    part: str | None = None  # of the run, as its walk on noise; None: the run's own particles
    sorted: int = 0
    kept: int = 0
    kept_found: int | None = None
    wrong: int | None = None
    wrong_kept: int | None = None
    sorted_by_rank: dict[int, int] = field(default_factory=dict)
    kept_by_rank: dict[int, int] = field(default_factory=dict)
    has_particles: bool = False

    def add(self, rank: int, record: dict) -> None:
        """Count one rank's sort in."""
        self.sorted += record["sorted"]
        self.kept += record["kept"]
        self.sorted_by_rank[rank] = self.sorted_by_rank.get(rank, 0) + record["sorted"]
        self.kept_by_rank[rank] = self.kept_by_rank.get(rank, 0) + record["kept"]
        if record["kept_found"] is not None:
            self.kept_found = (self.kept_found or 0) + record["kept_found"]
        if record["wrong"] is not None:
            self.wrong = (self.wrong or 0) + record["wrong"]
            self.wrong_kept = (self.wrong_kept or 0) + record["wrong_kept"]


def open_logs(folder) -> RunLogs:
    """Find the log files under an output folder (or its ``logs``); UserError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: {'a file, not a' if folder.exists() else 'no such'} folder; expected the output "
                        f"folder of mpirecon reconstruct")
    inner = folder / "logs" if (folder / "logs").is_dir() else folder
    found = {int(m[1]): p for p in inner.iterdir() if (m := re.fullmatch(r"rank(\d+)\.jsonl", p.name))}
    if not found:
        raise UserError(f"{inner}: no rankNNNN.jsonl in it; expected the output folder of mpirecon reconstruct")
    logs = RunLogs(inner, dict(sorted(found.items())), max(found) + 1)
    sizes: dict[int, set[int]] = {}  # of each run whose lines are in the files
    for rank, path in list(logs.files.items()):
        starts = _starts(path)
        if not starts or starts[0] is None:
            logs.warnings.append(f"{path}: does not begin with a start record; it was cut or is not a rank log")
        elif starts[0]["rank"] != rank:
            logs.warnings.append(f"{path}: is a copy of the log of rank {starts[0]['rank']}, and is ignored")
            del logs.files[rank]
        for count, record in enumerate(starts, 1):
            if record is not None and rank in logs.files:
                sizes.setdefault(_run_of(record, count), set()).add(record["size"])
    logs.size = max([*set().union(*sizes.values()), *(rank + 1 for rank in logs.files), 1])
    for mixed in filter(lambda some: len(some) > 1, sizes.values()):
        runs = " and ".join(map(str, sorted(mixed)))
        logs.warnings.append(f"{inner}: files of runs on {runs} ranks lie together; some are left from another run")
    missing = logs.size - len(logs.files)
    if missing:
        first = list(itertools.islice((r for r in range(logs.size) if r not in logs.files), 5))
        logs.warnings.append(f"{inner}: the files of {missing} of {logs.size} ranks are missing "
                             f"({_name_ranks(first)}); what follows lacks their particles")
    return logs


def count_iterations(logs: RunLogs) -> list[IterationCounts]:
    """The per-iteration counts, in order, those of parts of the run last. Adds warnings about cut files to `logs`."""
    sorts: dict[tuple[int, str, str | None], tuple[int, list]] = {}
    listed, cut, last = set(), [], 0
    for rank, path in logs.files.items():
        ended, starts, run = False, 0, 0
        for line, record in _read(path, logs, skip_particles=True):
            if record is None:
                listed.add(_iteration_of(line))
            elif record["event"] == "sort":
                key = (record["iteration"], record["scope"], record["part"])
                if sorts.setdefault(key, (run, []))[0] < run:
                    sorts[key] = (run, [])  # a resumed run makes the iteration again that was not saved
                if sorts[key][0] == run:
                    sorts[key][1].append((rank, record))
            elif record["event"] == "start":
                starts += 1
                run = _run_of(record, starts)
            # a resumed run continues behind the end of the one before
            ended = record is not None and record["event"] == "end"
        last = max(last, run)
        if not ended:
            cut.append((run, f"{path}: has no end record; the run is still in progress, or rank {rank} was cut off"))
    logs.warnings += [text for run, text in cut if run == last]  # ranks of earlier runs may have been killed
    table = {key: IterationCounts(*key) for key in sorts}
    for key, (_, records) in sorts.items():
        for rank, record in records:
            table[key].add(rank, record)
    for counts in table.values():
        counts.has_particles = counts.part is None and counts.iteration in listed
    return [table[key] for key in sorted(table, key=lambda key: (key[2] or "", *key[:2]))]


def sorts_nothing(logs: RunLogs) -> bool:
    """Whether the run came through an iteration and sorted no particles in it: its loss selects none."""
    events = {
        record["event"]
        for path in logs.files.values()
        for _, record in _read(path, logs, skip_particles=True, warn=False)
        if record
    }
    return "iteration" in events and "sort" not in events


def read_iteration(logs: RunLogs, iteration: int) -> np.ndarray:
    """Every particle that was sorted in an iteration, (m,) SORTED_DTYPE.

    Ordered by distance (then id) where the sort was global, else by rank, sort and place after sorting.
    Holds one iteration in memory, never the files.
    """
    parts, scopes = [], set()
    found = {path: _particle_records(path, logs, iteration) for path in logs.files.values()}
    last = max((run for run, records in found.values() if records), default=0)
    for rank, path in logs.files.items():
        sorts: dict[int, list[dict]] = {}
        for record in found[path][1] if found[path][0] == last else []:
            sorts.setdefault(record["sort"], []).append(record)
            scopes.add(record["scope"])
        for records in sorts.values():
            if sum(len(r["ids_after"]) for r in records) < records[0]["total"]:
                logs.warnings.append(f"{path}: a sort of iteration {iteration} is incomplete, and is ignored")
            else:
                parts.append(_join_sort(rank, records))
    rows = np.concatenate(parts) if parts else np.empty(0, SORTED_DTYPE)
    if scopes == {"global"}:
        return rows[np.lexsort((rows["particle"], rows["distance"]))]
    return rows


def read_particle(logs: RunLogs, particle: int) -> np.ndarray:
    """One particle's place in every iteration whose particles were logged, (k,) SORTED_DTYPE in order."""
    iterations = set()
    for path in logs.files.values():
        with _opened(path) as lines:
            iterations |= {_iteration_of(line) for line in lines if _is_particle_list(line)}
    found = []
    for iteration in sorted(iterations):
        rows = read_iteration(logs, iteration)
        found.append(rows[rows["particle"] == particle])
    return np.concatenate(found) if found else np.empty(0, SORTED_DTYPE)


def _join_sort(rank: int, records: list[dict]) -> np.ndarray:
    """The rows of one sort, from its lines."""
    records = sorted(records, key=lambda r: r["offset"])

    def column(name):
        return np.concatenate([r[name] for r in records])

    ids_before, ids_after = column("ids_before"), column("ids_after")
    rows = np.zeros(len(ids_after), SORTED_DTYPE)
    rows["iteration"], rows["rank"], rows["batch"] = records[0]["iteration"], rank, str(records[0]["batch"])
    rows["particle"] = ids_after
    rows["after"] = np.arange(len(ids_after))
    order = np.argsort(ids_before, kind="stable")
    rows["before"] = order[np.searchsorted(ids_before[order], ids_after).clip(max=max(len(order) - 1, 0))]
    rows["distance"] = column("distances_after")
    rows["kept"] = column("kept_after")
    rows["pose_error"] = column("pose_error_after")
    return rows


def _particle_records(path: Path, logs: RunLogs, iteration: int) -> tuple[int, list[dict]]:
    """(the run that made an iteration last, its sort_particles records); damaged lines are left out with a warning."""
    wanted, found, starts, run, of = f"{_PARTICLES}{iteration},", [], 0, 0, 0
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith(_START):
                starts += 1
                start = _parse(path, number, line, None)
                run = run if start is None else _run_of(start, starts)
            elif line.startswith(wanted):
                record = _parse(path, number, line, logs)
                if record is not None and record["part"] is None:
                    found, of = found if of == run else [], run  # a resumed run makes it again
                    found.append(record)
    return of, found


def _starts(path: Path) -> list[dict | None]:
    """The start records of a file: of each run that wrote into it. None for a first line that is none."""
    with _opened(path) as lines:
        return [_parse(path, number, line, None) if line.startswith(_START) else None
                for number, line in enumerate(lines, 1) if number == 1 or line.startswith(_START)]


def _run_of(start: dict, count: int) -> int:
    """Which run a file's start record, its `count`-th, belongs to; later runs have larger numbers."""
    return count if start["run"] is None else start["run"]


def _read(path: Path, logs: RunLogs, *, skip_particles: bool = False, warn: bool = True) -> Iterator[tuple[str, dict]]:
    """(line, record) of a file; with `skip_particles` the record of a particle list is None, unparsed."""
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if skip_particles and _is_particle_list(line):
                yield line, None
                continue
            record = _parse(path, number, line, logs if warn else None)
            if record is not None:
                yield line, record


def _opened(path: Path) -> TextIO:
    """A log to read, whatever bytes are in it; it has no line ends but line feeds."""
    return open(path, encoding="utf-8", errors="replace", newline="\n")


def _is_particle_list(line: str) -> bool:
    """Whether a line is a whole sort_particles record, found without parsing its lists."""
    return _LIST.match(line) is not None and line.endswith("}\n")


def _iteration_of(line: str) -> int:
    return int(_LIST.match(line)[1])


def _parse(path: Path, number: int, line: str, logs: RunLogs | None) -> dict | None:
    """A line's record; None, and a warning, for one that is cut or damaged."""
    try:
        return checked(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        text = f"{path}, line {number}: is cut or damaged, and is ignored"
        if logs is not None and text not in logs.warnings:
            logs.warnings.append(text)
        return None


def _name_ranks(ranks: list[int]) -> str:
    shown = ", ".join(f"rank{r:04d}.jsonl" for r in ranks[:4])
    return shown + (", …" if len(ranks) > 4 else "")
