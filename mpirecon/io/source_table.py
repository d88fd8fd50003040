"""The imported table inside a particle file (`/source`): STAR tables as text, .cs arrays column by column, lossless."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.file_names import as_texts
from mpirecon.io.hdf5 import read_all
from mpirecon.io.hdf5_heap import check_heaps
from mpirecon.io.shared_hdf5 import SharedHdf5
from mpirecon.parallel.comm import together

if TYPE_CHECKING:  # pandas is slow to load, and most runs never look at the imported table
    import pandas as pd

_ROWS = 16384  # rows of a chunk of a column
_COMPRESSED = {"compression": "gzip", "compression_opts": 1}


def write_tables(
    file: SharedHdf5, group: str, tables: dict[str, pd.DataFrame], split: str | None = None, rows: slice | None = None
) -> None:
    """Store tables of text columns as groups ``table_000`` …, in order. Collective.

    split : name of the table of which each rank has the rows `rows`; others are whole on every rank
    """
    for number, (name, table) in enumerate(tables.items()):
        place = f"{group}/table_{number:03d}"
        total = table.attrs.get("rows", len(table)) if name != split else file.comm.allreduce_scalar(rows.stop, "max")
        with together(file.comm):
            if file.file is not None:
                _describe(file.file.create_group(place), name, table, total)
                if name != split:
                    _write_columns(file.file[place], table)
        if name == split:
            _share_columns(file, place, table, rows, total)


def read_tables(group: h5py.Group) -> dict[str, pd.DataFrame]:
    """What write_tables stored: name → table of text columns."""
    return {found.attrs["name"]: _read_table(found) for found in tables_of(group)}


def tables_of(group: h5py.Group) -> list[h5py.Group]:
    """The groups that write_tables made, in order."""
    return _numbered(group, "table_")


def write_arrays(file: SharedHdf5, group: str, arrays: dict[str, np.ndarray], rows: slice) -> None:
    """Store structured arrays, of which each rank has the rows `rows`, as groups ``array_000`` … with a dataset per
    field, bit for bit. Collective."""
    total = file.comm.allreduce_scalar(rows.stop, "max")
    for number, (name, array) in enumerate(arrays.items()):
        place = f"{group}/array_{number:03d}"
        with together(file.comm):
            if file.file is not None:
                made = file.file.create_group(place)
                made.attrs.update(name=name, rows=total, dtype=repr(np.lib.format.dtype_to_descr(array.dtype)))
        columns = {f"{place}/{_column_name(i, field)}": _storable(array, field) for i,
                   field in enumerate(array.dtype.names)}
        file.create({column: (values.dtype, (total, *values.shape[1:])) for column, values in columns.items()})
        with together(file.comm):
            for column, values in columns.items():
                file.put(column, rows.start, values)


def read_arrays(group: h5py.Group) -> dict[str, np.ndarray]:
    """What write_arrays stored: name → structured array of the same dtype."""
    return {found.attrs["name"]: _read_array(found) for found in _numbered(group, "array_")}


def fields_of(group: h5py.Group) -> dict[str, int]:
    """The fields of the arrays that write_arrays stored, and how many rows each has."""
    return {name: int(found.attrs["rows"]) for found in _numbered(group, "array_") for name in _dtype_of(found).names}


def read_field(group: h5py.Group, label: str) -> np.ndarray:
    """A field of those arrays alone, (m, …)."""
    found = next(array for array in _numbered(group, "array_") if label in _dtype_of(array).names)
    return _read_array(found, label)[label]


#: STAR columns whose numbers begin again in every micrograph or tomogram, and the column that names these
WITHIN = {"rlnHelicalTubeID": "rlnMicrographName", "rlnTomoParticleId": "rlnTomoName"}


def names_within(name: str) -> str | None:
    """The column without which the values of column `name` do not say which rows belong together; None where they do.

    name : as given, perhaps without the prefix rln
    """
    return WITHIN.get("rln" + name.removeprefix("_").removeprefix("rln"))


def texts_of(group: h5py.Group, name: str, rows: int, path: Path) -> np.ndarray:
    """A column of a table with so many rows, or such a field of an array, (m,) object, texts; the prefix rln may be left
    out.

    Raises UserError, in which `path` is the particle file, where there is none.
    """
    known = set()
    for table in tables_of(group):
        labels = [str(label) for label in table.attrs["columns"]]
        if int(table.attrs["rows"]) != rows:
            continue
        for label in (name, f"rln{name}", name.lstrip("_"), f"_{name}", f"_rln{name}"):
            if label in labels:
                # without pandas and Numba, which a table's columns need and take half a second to load
                return as_texts(read_column(table, labels.index(label), label))
        known.update(labels)
    fields = {field for field, length in fields_of(group).items() if length == rows}
    if name in fields:
        return field_texts(read_field(group, name), name, path)
    raise UserError(f"{path}: there is no column {name}; it has {', '.join(sorted(known | fields))}")


def field_texts(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """A field of a structured array as texts, (m,) object. Raises UserError where it is several numbers a row."""
    if values.ndim > 1:
        raise UserError(f"{path}: {name} is {values[0].size if len(values) else 0} numbers a row; expected a column of "
                        "single values")
    return as_texts(values) if values.dtype.kind == "S" else values.astype(str).astype(object)


def _describe(group: h5py.Group, name: str, table: pd.DataFrame, rows: int) -> None:
    group.attrs.update(name=name, rows=rows, columns=[str(label) for label in table.columns])
    if table.attrs.get("pairs"):
        group.attrs["pairs"] = True


def _write_columns(group: h5py.Group, table: pd.DataFrame) -> None:
    from mpirecon.io.text_column import text_column

    for i, label in enumerate(table.columns):
        cells = text_column(table[label]).cells
        group.create_dataset(_column_name(i, label), data=cells.astype(_text_type(cells.dtype.itemsize)),
                             **_layout(len(cells)))


def _share_columns(file: SharedHdf5, place: str, table: pd.DataFrame, rows: slice, total: int) -> None:
    """The columns of a table whose rows are spread over the ranks, each as wide as its longest value on any rank."""
    from mpirecon.io.text_column import text_column

    cells = [text_column(table[label]).cells for label in table.columns]
    widths = file.comm.allreduce(np.array([column.dtype.itemsize for column in cells], np.int64), "max")
    names = [f"{place}/{_column_name(i, label)}" for i, label in enumerate(table.columns)]
    file.create({name: (_text_type(int(width)), (total,)) for name, width in zip(names, widths)})
    with together(file.comm):
        for name, column, width in zip(names, cells, widths):
            file.put(name, rows.start, column.astype(f"S{width}"))


def _text_type(width: int) -> np.dtype:
    return h5py.string_dtype("utf-8", width)


def _read_table(group: h5py.Group) -> pd.DataFrame:
    import pandas as pd

    from mpirecon.io.text_column import TextColumn

    labels = [str(label) for label in group.attrs["columns"]]
    columns = {label: TextColumn(read_column(group, i, label)) for i, label in enumerate(labels)}
    table = pd.DataFrame(columns, columns=labels, copy=False)
    if group.attrs.get("pairs", False):
        table.attrs["pairs"] = True
    return table


def read_column(group: h5py.Group, i: int, label: str) -> np.ndarray:
    """The cells of column number i of a table, (m,) fixed-width bytes."""
    cells = read_all(group[_column_name(i, label)]).astype(bytes, copy=False)
    if cells.shape != (int(group.attrs["rows"]),):
        raise ValueError(f"column {label} is {cells.shape}, the table has {group.attrs['rows']} rows")
    return cells


def _storable(array: np.ndarray, field: str) -> np.ndarray:
    """A field as HDF5 can keep it, (m, …); of types that it does not know, the bytes (m, k)."""
    values = np.ascontiguousarray(array[field])
    if _native(array.dtype[field]):
        return values
    return np.frombuffer(values.tobytes(), np.uint8).reshape(len(array), array.dtype[field].itemsize)


def _dtype_of(group: h5py.Group) -> np.dtype:
    return np.lib.format.descr_to_dtype(ast.literal_eval(group.attrs["dtype"]))


def _read_array(group: h5py.Group, only: str | None = None) -> np.ndarray:
    """only : the field that is read, if not all; the others are zero"""
    dtype, rows = _dtype_of(group), int(group.attrs["rows"])
    columns = {field: read_all(group[_column_name(i, field)]) for i, field in enumerate(dtype.names)
               if only in (None, field)}
    if any(len(values) != rows for values in columns.values()):
        raise ValueError(f"columns of {sorted(set(map(len, columns.values())))} rows in an array of {rows}")
    array = np.zeros(rows, dtype)
    for field, values in columns.items():
        if not _native(dtype[field]):
            base, shape = dtype[field].base, array[field].shape
            values = np.frombuffer(values.tobytes(), base).reshape(shape) if base.itemsize else array[field]
        array[field] = values
    return array


def _native(dtype: np.dtype) -> bool:
    """Whether HDF5 keeps this type as it is; others are stored as their bytes."""
    return dtype.base.kind in "iufS" and dtype.base.itemsize > 0


def _layout(rows: int) -> dict:
    return {"chunks": (min(rows, _ROWS),), **_COMPRESSED} if rows else {}


def _column_name(i: int, label: str) -> str:
    """Dataset name of a column: its label, unless HDF5 would read it as a path."""
    return f"column_{i}" if "/" in label or label in (".", "..") else label


def _numbered(group: h5py.Group, prefix: str) -> list[h5py.Group]:
    found = [group[name] for name in sorted(group) if name.startswith(prefix)]
    for one in found:
        check_heaps(one, Path(group.file.filename))
    return found
