"""Columns of text as pandas takes them, each value in as many bytes as the longest needs rather than in a Python
object."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype, register_extension_dtype

from mpirecon.io import star_scan
from mpirecon.io.file_names import UNCHANGED, as_bytes, as_texts


@register_extension_dtype
class TextDtype(ExtensionDtype):
    """The pandas dtype of a TextColumn."""

    name = "mpirecon-text"
    type = str
    na_value = ""

    @classmethod
    def construct_array_type(cls):
        return TextColumn


class TextColumn(ExtensionArray):
    """Text values that keep to the interface of pandas; none is ever missing.

    cells : (m,) NumPy fixed-width bytes, UTF-8 without zero bytes
    """

    def __init__(self, cells: np.ndarray) -> None:
        if cells.dtype.kind != "S" or cells.ndim != 1:
            raise TypeError(f"expected fixed-width bytes (m,), got {cells.dtype} {cells.shape}")
        self.cells = cells

    @property
    def letters(self) -> np.ndarray:
        """(m, width) uint8, the cells' bytes, padded with zeros."""
        width = self.cells.dtype.itemsize
        return np.ascontiguousarray(self.cells).view(np.uint8).reshape(len(self.cells), width)

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """(m,) int64, a number for each different value, in order of appearance; (k,) the row where each is first."""
        key = self.hashes()
        codes, unique = pd.factorize(key)
        first = np.full(len(unique), len(key))
        np.minimum.at(first, codes, np.arange(len(key)))
        if (self.cells == self.cells[first][codes]).all():
            return codes.astype(np.int64), first
        codes, _ = pd.factorize(np.asarray(self))  # two texts of one hash
        return codes.astype(np.int64), np.unique(codes, return_index=True)[1]

    def hashes(self) -> np.ndarray:
        """(m,) int64, a hash of each value that is the same on every rank; two values share one by a chance of 2⁻⁶⁴."""
        out = np.empty(len(self), np.int64)
        star_scan.hash_rows(self.letters, out)
        return out

    # what pandas asks of an array

    @classmethod
    def _from_sequence(cls, scalars, *, dtype=None, copy=False) -> TextColumn:
        if isinstance(scalars, TextColumn):
            return scalars.copy() if copy else scalars
        return cls(np.array([as_bytes(str(value)) for value in scalars] or [b""], dtype=bytes)[: len(scalars)])

    @classmethod
    def _from_factorized(cls, values, original) -> TextColumn:
        return cls._from_sequence(values)

    @classmethod
    def _concat_same_type(cls, to_concat) -> TextColumn:
        return cls(np.concatenate([part.cells for part in to_concat]))

    def __getitem__(self, item):
        item = pd.api.indexers.check_array_indexer(self, item)
        found = self.cells[item]
        return found.decode("utf-8", UNCHANGED) if isinstance(found, bytes) else TextColumn(found)

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self):
        return iter(self.__array__())

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        out = as_texts(self.cells)
        return out if dtype in (None, object) else out.astype(dtype)

    def __eq__(self, other):
        if isinstance(other, (pd.Series, pd.Index, pd.DataFrame)):
            return NotImplemented
        if isinstance(other, TextColumn):
            return self.cells == other.cells
        return self.__array__() == other

    def __ne__(self, other):
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else ~equal

    @property
    def dtype(self) -> TextDtype:
        return TextDtype()

    @property
    def nbytes(self) -> int:
        return self.cells.nbytes

    def isna(self) -> np.ndarray:
        return np.zeros(len(self), bool)

    def take(self, indices, *, allow_fill=False, fill_value=None) -> TextColumn:
        if allow_fill and (np.asarray(indices) < 0).any():
            raise ValueError("a column of text has no missing values")
        return TextColumn(self.cells.take(indices))

    def copy(self) -> TextColumn:
        return TextColumn(self.cells.copy())

    def _values_for_factorize(self):
        return self.__array__(), None

    def _values_for_argsort(self):
        return self.__array__()


def text_column(values: pd.Series) -> TextColumn:
    """The values of any column of text as a TextColumn."""
    return values.array if isinstance(values.array, TextColumn) else TextColumn._from_sequence(values.tolist())


def to_numbers(values: pd.Series) -> np.ndarray:
    """(m,) float64 of a column of text, correctly rounded; NaN where a value is not a number."""
    column = text_column(values)
    out, odd = np.full(len(column), np.nan), np.zeros(len(column), bool)
    star_scan.parse_numbers(column.letters, out, odd)
    if odd.any():
        out[odd] = pd.to_numeric(pd.Series(np.asarray(column[odd]), dtype=object), errors="coerce").to_numpy(np.float64)
    return out
