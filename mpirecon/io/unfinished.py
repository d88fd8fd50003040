"""What is known of a run that has not finished: how far it came, when, and how to continue."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io import folder_lock
from mpirecon.io.checkpoint import NAME as CHECKPOINT
from mpirecon.io.checkpoint import Checkpoint

#: folder, within the output folder, of results that are not complete
UNFINISHED = "unfinished"

_GO_ON = "the same command with --resume continues from there"


#: the last files of finished runs: of a reconstruction, of a null run
MARKERS = ("summary.json", "null.json")


def state_of(folder: Path) -> str | None:
    """A sentence about the unfinished run in a folder; None where there is no sign of one."""
    holder = folder_lock.held_by(folder)
    if holder is None and any((folder / UNFINISHED / marker).is_file() for marker in MARKERS):
        return (f"the results of the run in {folder} are complete, but it was ended while they were put in their "
                f"place; the same command with --resume does it{_command(folder)}")
    if (folder / CHECKPOINT).is_file():
        saved = f"{_progress(folder / CHECKPOINT)} was saved in {folder / CHECKPOINT} at {_moment(folder / CHECKPOINT)}"
        if (folder / UNFINISHED / "half1.mrc").is_file():
            saved += f", its half maps in {folder / UNFINISHED}"
        if holder is not None:
            return f"the run in {folder} is in progress ({holder}): {saved}"
        return f"the run in {folder} is not finished: {saved}; {_GO_ON}{_command(folder)}"
    if holder is not None:
        return f"the run in {folder} is in progress ({holder}), and has saved nothing yet"
    log = _log(folder)
    if log is not None and not any((folder / marker).is_file() for marker in MARKERS):
        return (f"the run in {folder} was ended at {_moment(log)}, before it had saved anything; the same command "
                f"begins again{_command(folder)}")
    return None


def _progress(checkpoint: Path) -> str:
    try:
        with Checkpoint(checkpoint) as found:
            facts = found.facts
    except UserError:
        return "a state that cannot be read"
    rounds, what = facts.get("rounds"), "step" if facts.get("kind") else "iteration"
    return f"{what} {facts['iteration']}" + (f" of {rounds}" if rounds else "")


def _moment(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))


def _log(folder: Path) -> Path | None:
    """Rank 0's log of the unfinished run."""
    logs = (folder / UNFINISHED / "logs" / "rank0000.jsonl", folder / "logs" / "rank0000.jsonl")
    return next((path for path in logs if path.is_file()), None)


def _command(folder: Path) -> str:
    """How the run was started, as rank 0's log has it."""
    log = _log(folder)
    if log is None:
        return ""
    try:
        with open(log, encoding="utf-8", errors="replace") as lines:
            start = json.loads(lines.readline())
        words, ranks = start["argv"], int(start["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    words = [word for word in words[1:] if word not in ("--resume", "--overwrite")]
    where = f", in {start['cwd']}" if start.get("cwd") else ""
    return f" (it was: mpirecon {shlex.join(words)}, on {ranks} rank{'s' * (ranks > 1)}{where})"
