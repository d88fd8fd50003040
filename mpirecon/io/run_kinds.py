"""The kinds of runs, and which files each leaves in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

#: the particle file that a run makes of a table: it refers to the table's stacks
LINKED = "linked.h5"

#: what a run continues from
CHECKPOINT = "checkpoint.h5"

#: the last files of finished runs: of a reconstruction, of a null run
MARKERS = ("summary.json", "null.json")


@dataclass(frozen=True)
class Kind:
    """A kind of run: its name in messages, the file that a finished one ends with, and all files that it may leave.

    kind : what the marker says under this name, by which kinds of one marker are distinguished
    """

    name: str
    marker: str
    files: tuple[str, ...]
    kind: str | None = None

    def finished_in(self, folder: Path) -> bool:
        """Whether results of this kind are in a folder, all of them."""
        path = folder / self.marker
        if not path.exists():
            return False
        if all(other is self or other.marker != self.marker for other in KINDS):
            return True
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("kind")
        except (OSError, ValueError, AttributeError):
            found = None
        return found == self.kind

    def left_in(self, folder: Path) -> str:
        """What a run that has just finished left in its folder, in words; its marker, the last file, comes last."""
        names = [name for name in self.files if name != self.marker and (folder / name).exists()]
        return ", ".join([*names, self.marker, "logs/"])


RECONSTRUCTION = Kind("reconstruction", MARKERS[0], (
    "summary.json", "volume.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "sharpened.mrc", "discarded.mrc",
    "locres.mrc", "locres_filtered.mrc", "fsc.csv", "views.csv",
    "detection.csv", "particles.h5", "report.html", LINKED, CHECKPOINT,
))  # fmt: skip

NULL = Kind("null run", MARKERS[1], ("null.json", "fsc.csv", LINKED))

PATH = Kind("path", MARKERS[0], (
    "summary.json", "path.csv", "fsc.csv", "views.csv", "volume.mrc", "half1.mrc", "half2.mrc", "mask.mrc",
    "particles.h5", "report.html",
    LINKED, CHECKPOINT,
), kind="path")  # fmt: skip

KINDS = (RECONSTRUCTION, NULL, PATH)
