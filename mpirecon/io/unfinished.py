"""What is known of a run that has not finished: how far it came, when, and how to continue."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io import folder_lock
from mpirecon.io.checkpoint import Checkpoint
from mpirecon.io.run_kinds import CHECKPOINT, MARKERS

#: folder, within the output folder, of results that are not complete
UNFINISHED = "unfinished"

#: the command with --resume, or what is as much in a script
_AGAIN = {True: "the same command with --resume", False: "the same call with resume=True"}

#: bytes at the end of a log that have its last lines
_TAIL = 4096

def state_of(folder: Path) -> str | None:
    """A sentence about the unfinished run in a folder; None where there is no sign of one."""
    holder, started = folder_lock.held_by(folder), _started(folder)
    again = _AGAIN[started is None or _is_command(started)]
    if holder is None and any((folder / UNFINISHED / marker).is_file() for marker in MARKERS):
        return (f"the results of the run in {folder} are complete, but it was ended while they were put in their "
                f"place; {again} does it{_how(started)}")
    if (folder / CHECKPOINT).is_file():
        saved = f"{_progress(folder / CHECKPOINT)} was saved in {folder / CHECKPOINT} at {_moment(folder / CHECKPOINT)}"
        if (folder / UNFINISHED / "half1.mrc").is_file():
            saved += f", its half maps in {folder / UNFINISHED}"
        if holder is not None:
            return f"the run in {folder} is in progress ({holder}): {saved}"
        return f"the run in {folder} is not finished: {saved}; {again} continues from there{_how(started)}"
    if holder is not None:
        return f"the run in {folder} is in progress ({holder}), and has saved nothing yet"
    log = _log(folder)
    if log is None or any((folder / marker).is_file() for marker in MARKERS):
        return None
    if ended_well(log):
        return (f"the run in {folder} ended well at {_moment(log)}, but its last file, {MARKERS[0]} ({MARKERS[1]} of "
                f"a null run), is not there any more: it was removed, or the folder was not copied as a whole. Bring "
                f"it back, or run it again with --overwrite{_how(started)}")
    what = again.replace(" with --resume", "").replace(" with resume=True", "")
    return (f"the run in {folder} was ended at {_moment(log)}, before it had saved anything; {what} begins again"
            f"{_how(started)}")


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


def ended_well(log: Path) -> bool:
    """Whether the last run that wrote a log came to its end."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            last = file.read().decode("utf-8", "replace").splitlines()[-1]
        return json.loads(last).get("status") == "ok"
    except (OSError, ValueError, IndexError, AttributeError):
        return False


def _started(folder: Path) -> dict | None:
    """How the run was started, as rank 0's log has it."""
    log = _log(folder)
    try:
        with open(log or "", encoding="utf-8", errors="replace") as lines:
            start = json.loads(lines.readline())
        return {"argv": [str(word) for word in start["argv"]], "size": int(start["size"]), "cwd": start.get("cwd")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_command(started: dict) -> bool:
    """Whether the command was started, and not a script that calls mpirecon."""
    program = Path(*started["argv"][:1])
    return program.name == "mpirecon" or (program.name == "__main__.py" and program.parent.name == "mpirecon")


def _how(started: dict | None) -> str:
    """How the run was started, in words."""
    if started is None:
        return ""
    ranks, words = started["size"], [word for word in started["argv"][1:] if word not in ("--resume", "--overwrite")]
    where = f", in {started['cwd']}" if started["cwd"] else ""
    on = f"on {ranks} rank{'s' * (ranks > 1)}{where}"
    if _is_command(started):
        return f" (it was: mpirecon {shlex.join(words)}, {on})"
    script = started["argv"][0] if started["argv"] else ""
    return f" (it was started by {shlex.join([script, *words]) if script not in ('', '-c') else 'Python'}, {on})"
