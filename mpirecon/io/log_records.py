"""What the records of a rank's log must be like, so that whoever joins logs need not ask again."""

from __future__ import annotations

import numpy as np

#: no count, iteration or number of ranks is larger
_MOST = 2**31 - 1
_MOST_RANKS = 10_000_000


def checked(record: dict) -> dict:
    """The record, lists of particles as arrays; of an event that is not joined, as it is.

    Raises ValueError, KeyError, TypeError or OverflowError where fields are missing or are not what run_log.py writes.
    """
    check = _CHECKS.get(record["event"])
    if check is not None:
        check(record)
    return record


def _check_start(record: dict) -> None:
    _whole(record["size"], 1, _MOST_RANKS)
    _whole(record["rank"], 0, _MOST_RANKS)
    if record.setdefault("run", None) is not None:
        _whole(record["run"], 1, 2**62)


def _check_sort(record: dict) -> None:
    _where(record)
    for part, of in (("kept", "sorted"), ("wrong_kept", "wrong")):
        if record["wrong"] is not None or part == "kept":
            _whole(record[of], 0, _MOST)
            _whole(record[part], 0, record[of])
    if record.setdefault("kept_found", None) is not None:
        _whole(record["kept_found"], 0, record["sorted"] - record["kept"])


def _check_particles(record: dict) -> None:
    """ids, distances and flags: of all particles or of none."""
    _where(record)
    for name in ("sort", "offset", "total"):
        _whole(record[name], 0, 2**62)
    for name in ("ids_before", "ids_after"):
        record[name] = _whole_numbers(record[name])
    # "inf" and null read as infinity and NaN
    record["distances_after"] = np.array(record["distances_after"], np.float64)
    record["kept_after"] = _whole_numbers(record["kept_after"]).astype(bool)
    known = record["pose_error_after"] is not None
    m = len(record["ids_after"])
    record["pose_error_after"] = _whole_numbers(record["pose_error_after"]).clip(0, 1) if known else np.full(m, -1)
    for name in ("ids_before", "distances_after", "kept_after", "pose_error_after"):
        if record[name].shape != (m,):
            raise ValueError(f"{name} of {m} particles is {record[name].shape}")


def _where(record: dict) -> None:
    _whole(record["iteration"], 0, _MOST)
    if not isinstance(record["scope"], str) or not isinstance(record["batch"], (int, str)):
        raise TypeError("scope and batch are no names")
    if not isinstance(record.setdefault("part", None), (str, type(None))):
        raise TypeError("part is no name")


def _whole(value, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value} is no whole number from {low} to {high}")


def _whole_numbers(values: list) -> np.ndarray:
    found = np.array(values if values else [], None if values else np.int64)
    if found.dtype.kind not in "iub" or found.ndim != 1:
        raise ValueError("these are no whole numbers")
    return found.astype(np.int64)


_CHECKS = {"start": _check_start, "sort": _check_sort, "sort_particles": _check_particles}
