"""What each rank did when, from the ends of the ranks' logs."""

from __future__ import annotations

import json
import os
from pathlib import Path

#: the line is among the last ones; particle lists before it may be long
_TAIL = 1 << 18


def read_timelines(folder, most: int = 16, logs=None) -> dict[int, dict]:
    """Rank → ``origin`` and ``spans`` of the ``timeline`` event of ``folder/logs``, or of the logs in the folder
    `logs`; at most so many ranks, spread evenly.

    Logs without one are left out: a report must not fail for want of a picture.
    """
    logs = sorted(Path(Path(folder) / "logs" if logs is None else logs).glob("rank*.jsonl"))
    if len(logs) > most:
        logs = [logs[round(i * (len(logs) - 1) / (most - 1))] for i in range(most)]
    found = {}
    for path in logs:
        record = _last(path, b'{"event": "timeline"')
        if record and record.get("spans"):
            found[int(record["rank"])] = {"origin": float(record["origin"]), "spans": record["spans"]}
    return found


def _last(path: Path, begins: bytes) -> dict | None:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - _TAIL))
            lines = [line for line in file.read().splitlines() if line.startswith(begins)]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
