"""Columns of a particle table as values that rows are selected by."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.text_column import TextColumn, text_column, to_numbers

_EXACT = 2.0**53  # float64 distinguishes all whole numbers below
_MOST = 1000  # values of a rank that are counted for an error


class Cells(ABC):
    """A column: name : str · numbers : (m,) float64, NaN where a value is none."""

    name: str
    numbers: np.ndarray

    @abstractmethod
    def equal(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """((m,) bool, rows that have one of the values; (k,) int64, 1 for the values that some row has)."""

    @abstractmethod
    def ending(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `equal`, of the last parts of paths."""

    @abstractmethod
    def distinct(self) -> list[str]:
        """The different values."""

    @abstractmethod
    def counts(self) -> pd.Series:
        """Rows of the commonest values."""


class _TextCells(Cells):
    def __init__(self, name: str, column: TextColumn) -> None:
        self.name, self._column = name, column
        self.numbers = to_numbers(pd.Series(column))

    def equal(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        mine, hashes = self._column.hashes(), TextColumn._from_sequence(wanted).hashes()
        numbers = np.array([_number(text) for text in wanted])
        numbers[~(np.abs(numbers) < _EXACT)] = np.nan
        found = np.isin(mine, hashes) | np.isin(self.numbers, numbers[np.isfinite(numbers)])
        return found, (np.isin(hashes, mine[found]) | np.isin(numbers, self.numbers[found])).astype(np.int64)

    def ending(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        codes, first = self._column.codes()
        last = np.array([os.path.basename(name.lstrip(">")) for name in self._column[first]], object)
        found = np.isin(last, np.array(wanted, object))
        return found[codes], np.isin(np.array(wanted, object), last[found]).astype(np.int64)

    def distinct(self) -> list[str]:
        return list(self._column[self._column.codes()[1]])

    def counts(self) -> pd.Series:
        codes, first = self._column.codes()
        rows = pd.Series(np.bincount(codes, minlength=len(first)), index=list(self._column[first]))
        return rows.nlargest(_MOST)


class _NumberCells(Cells):
    """Numbers of a .cs file; whole ones are compared as such, for uids have 64 bits."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self._values = name, values
        self.numbers = values.astype(np.float64)

    def equal(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        whole = self._values.dtype.kind in "iu"
        parsed = [_whole(text) if whole else _number(text) for text in wanted]
        if whole:
            limits = np.iinfo(self._values.dtype)
            parsed = [None if value is None or not limits.min <= value <= limits.max else value for value in parsed]
        there = [value for value in parsed if value is not None]
        known = np.array(there, self._values.dtype if whole else np.float64)
        compared = self._values if whole else self.numbers.astype(np.float32).astype(np.float64)
        known = known if whole else known.astype(np.float32).astype(np.float64)  # as they are stored
        found = np.isin(compared, known)
        hit = np.zeros(len(wanted), np.int64)
        hit[[i for i, value in enumerate(parsed) if value is not None]] = np.isin(known, compared[found])
        return found, hit

    def ending(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(self._values), bool), np.zeros(len(wanted), np.int64)

    def distinct(self) -> list[str]:
        return [str(value) for value in np.unique(self._values).tolist()]

    def counts(self) -> pd.Series:
        values, rows = np.unique(self._values, return_counts=True)
        return pd.Series(rows, index=[f"{value:g}" if values.dtype.kind == "f" else str(value)
                                      for value in values.tolist()]).nlargest(_MOST)


class StarValues:
    """Columns of a STAR file's particle table and, by their optics group, of its optics table."""

    def __init__(self, path: Path, particles: pd.DataFrame, optics: pd.DataFrame | None, first: int) -> None:
        self.path, self.particles, self.optics, self.first = path, particles, optics, first

    def column(self, name: str) -> Cells:
        """Raises UserError where there is no such column."""
        if name == "row":
            return _NumberCells(name, self.first + np.arange(len(self.particles)))
        for label in (name, f"rln{name}", name.lstrip("_")):
            if label in self.particles:
                return _TextCells(label, text_column(self.particles[label]))
            if self.optics is not None and label in self.optics and "rlnOpticsGroup" in self.particles:
                return _TextCells(label, self._of_groups(label))
        known = [*self.particles.columns, *([] if self.optics is None else self.optics.columns)]
        raise _unknown(name, self.path, list(dict.fromkeys(map(str, known))))

    def _of_groups(self, label: str) -> TextColumn:
        group = text_column(self.particles["rlnOpticsGroup"])
        rows = pd.Index(self.optics["rlnOpticsGroup"].tolist()).get_indexer(list(group[group.codes()[1]]))
        of_code = np.array([self.optics[label].iloc[row] if row >= 0 else "" for row in rows], object)
        return TextColumn._from_sequence(of_code[group.codes()[0]].tolist())


class CsValues:
    """Columns of a .cs file."""

    def __init__(self, path: Path, array: np.ndarray) -> None:
        self.path, self.array = path, array

    def column(self, name: str) -> Cells:
        """Raises UserError where there is no such column, or it has several numbers a row."""
        if name == "row":
            return _NumberCells(name, np.arange(len(self.array)))
        label, _, index = name.removesuffix("]").partition("[") if name.endswith("]") else (name, "", "")
        names = self.array.dtype.names
        ends = [known for known in names if known.split("/")[-1] == label]
        label = label if label in names else ends[0] if len(ends) == 1 else None
        if label is None:
            raise _unknown(name, self.path, list(names))
        values = self.array[label]
        if index:
            if values.ndim != 2 or not index.isdigit() or int(index) >= values.shape[1]:
                raise UserError(f"--select {name}: {label} of {self.path} has "
                                f"{values.shape[1] if values.ndim == 2 else 1} numbers a row")
            values = values[:, int(index)]
        if values.ndim > 1:
            raise UserError(f"--select {name}: {label} of {self.path} has {values.shape[1]} numbers a row; pick one "
                            f"with {label}[0]")
        if values.dtype.kind in "SU":
            return _TextCells(
                name, TextColumn(np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values.astype(bytes))
            )
        if values.dtype.kind not in "iufb":
            raise UserError(f"--select {name}: {label} of {self.path} is neither numbers nor text, it is "
                            f"{values.dtype}")
        return _NumberCells(name, values.astype(np.uint8) if values.dtype.kind == "b" else values)


def _unknown(name: str, path: Path, known: list[str]) -> UserError:
    close = difflib.get_close_matches(name, [*known, *(label.removeprefix("rln") for label in known)], 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UserError(f"--select {name}: {path} has no such column{hint}; it has {', '.join(known)}, and row, the row's "
                     f"number from 0")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        number = _number(text)
        return int(number) if np.isfinite(number) and number == int(number) and abs(number) < _EXACT else None
