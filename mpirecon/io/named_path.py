"""Names that scripts give, and that lead to the same file when the current folder is another one."""

from __future__ import annotations

import os
from pathlib import Path


class NamedPath:
    """A path as it was given, which keeps leading where it led then. No links are resolved.

    Attributes
    ----------
    absolute : Path
    """

    def __init__(self, given: str | os.PathLike) -> None:
        self._given, self.absolute = Path(given), _absolute(given)

    @property
    def path(self) -> Path:
        """What messages and files call it: as it was given, or absolute where that leads elsewhere by now."""
        return self._given if _absolute(self._given) == self.absolute else self.absolute


def _absolute(path: str | os.PathLike) -> Path:
    return Path(path).absolute()  # ".." stays: it may come after a link to another folder
