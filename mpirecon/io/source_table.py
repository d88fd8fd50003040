"""The imported table inside a particle file (`/source`): STAR tables as text, .cs arrays column by column, lossless."""

from __future__ import annotations

import ast

import h5py
import numpy as np
import pandas as pd

_ROWS = 16384  # rows of a chunk of a column
_COMPRESSED = {"compression": "gzip", "compression_opts": 1}


def write_tables(group: h5py.Group, tables: dict[str, pd.DataFrame]) -> None:
    """Store tables of text columns as groups ``table_000`` …, in order."""
    for number, (name, table) in enumerate(tables.items()):
        _write_table(group.create_group(f"table_{number:03d}"), name, table)


def read_tables(group: h5py.Group) -> dict[str, pd.DataFrame]:
    """What write_tables stored: name → table of text columns."""
    return {found.attrs["name"]: _read_table(found) for found in _numbered(group, "table_")}


def write_arrays(group: h5py.Group, arrays: dict[str, np.ndarray]) -> None:
    """Store structured arrays (m,) as groups ``array_000`` … with a dataset per field, bit for bit."""
    for number, (name, array) in enumerate(arrays.items()):
        _write_array(group.create_group(f"array_{number:03d}"), name, array)


def read_arrays(group: h5py.Group) -> dict[str, np.ndarray]:
    """What write_arrays stored: name → structured array of the same dtype."""
    return {found.attrs["name"]: _read_array(found) for found in _numbered(group, "array_")}


def _write_table(group: h5py.Group, name: str, table: pd.DataFrame) -> None:
    group.attrs["name"] = name
    group.attrs["rows"] = len(table)
    group.attrs["columns"] = [str(label) for label in table.columns]
    if table.attrs.get("pairs"):
        group.attrs["pairs"] = True
    for i, label in enumerate(table.columns):
        values = np.array([value.encode() for value in table[label]], dtype=bytes)
        values = values.astype(h5py.string_dtype("utf-8", max(1, values.dtype.itemsize)))
        group.create_dataset(_column_name(i, label), data=values, **_layout(len(values)))


def _read_table(group: h5py.Group) -> pd.DataFrame:
    labels = [str(label) for label in group.attrs["columns"]]
    columns = {label: group[_column_name(i, label)].asstr()[:] for i, label in enumerate(labels)}
    table = pd.DataFrame(columns, columns=labels, dtype=str)
    if group.attrs.get("pairs", False):
        table.attrs["pairs"] = True
    return table


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    group.attrs["name"] = name
    group.attrs["rows"] = len(array)
    group.attrs["dtype"] = repr(np.lib.format.dtype_to_descr(array.dtype))
    for i, field in enumerate(array.dtype.names):
        values = np.ascontiguousarray(array[field])
        if not _native(array.dtype[field]):
            values = np.frombuffer(values.tobytes(), np.uint8).reshape(len(array), -1)
        layout = _layout(len(values)) if values.size else {}
        if layout:
            layout["chunks"] += values.shape[1:]
        group.create_dataset(_column_name(i, field), data=values, **layout)


def _read_array(group: h5py.Group) -> np.ndarray:
    dtype = np.lib.format.descr_to_dtype(ast.literal_eval(group.attrs["dtype"]))
    array = np.zeros(int(group.attrs["rows"]), dtype)
    for i, field in enumerate(dtype.names):
        values = group[_column_name(i, field)][...]
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
    return [group[name] for name in sorted(group) if name.startswith(prefix)]
