"""Tables of particles as data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpirecon.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

#: what the numbers of a column are called that has several in a row; those of others are counted from 0
_PARTS = {4: ("w", "x", "y", "z"), 2: ("x", "y")}
_OF_DEFOCUS = ("u", "v")


def data_frame(table) -> DataFrame:
    """A table of this program as a pandas DataFrame, whose columns have one value in a row.

    Parameters
    ----------
    table : structured array
        ``result.particles``, ``particles.table``, what ``score`` and ``search_poses`` return …

    Returns
    -------
    DataFrame
        quaternions as the columns ``quaternion_w`` … ``quaternion_z``, shifts as ``shift_x`` and ``shift_y``, defoci as
        ``true_defocus_u`` and ``true_defocus_v``

    Raises
    ------
    UserError
        when it is no structured array.
    """
    import pandas

    if not isinstance(table, np.ndarray) or table.dtype.names is None:
        raise UserError(f"data_frame: expected a structured array, such as result.particles, got "
                        f"{type(table).__name__}")
    columns = {}
    for name in table.dtype.names:
        values = np.asarray(table[name])
        if values.ndim == 1:
            columns[name] = values.astype(str) if values.dtype.kind == "S" else values
            continue
        values = values.reshape(len(values), -1)
        count = values.shape[1]
        parts = _OF_DEFOCUS if name.endswith("defocus") and count == 2 else _PARTS.get(count, range(count))
        columns |= {f"{name}_{part}": values[:, number] for number, part in enumerate(parts)}
    return pandas.DataFrame(columns)
