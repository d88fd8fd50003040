"""What a user's own losses, rules and distances are called, take and return, checked before it is used."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kinds import shown

#: sums of weighted images in single precision hold weights between these, with room for large boxes and many particles
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-20, 1e20


def refuse_name(what: str, name) -> None:
    """Raise UserError where what is to be known by a name has none: it is no text, or empty."""
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{what}: its name must be text that is not empty, got {shown(name)}")


def refuse_uncalled(name: str, loss: Callable) -> None:
    """Raise UserError where something cannot be called with the centre and the spread of norms."""
    try:
        signature(loss).bind(1.0, 1.0)
    except TypeError as error:
        raise UserError(f"loss {name}: it is called with the centre and the spread of the distances, (centre, scale): "
                        f"{error}") from error


def checked_weights(name: str, returned, d: np.ndarray, counted: np.ndarray | bool = True) -> np.ndarray:
    """What a loss returned as weights of norms d, (m,) float64; one weight counts for all.

    counted : (m,) bool, of the others weights may be anything

    Raises
    ------
    UserError
        where they are no numbers, masked, not one for each distance, not finite, or negative.
    """
    weight = _plain_array(f"loss {name}: the function", returned)
    if weight.dtype.kind not in "biuf":
        got = f"values of {weight.dtype}" if weight.ndim else type(returned).__name__
        raise UserError(f"loss {name}: the function returned {got}; it must return an array of numbers, one weight for "
                        "each distance")
    if weight.shape not in ((), d.shape):
        raise UserError(f"loss {name}: the function returned an array of shape {weight.shape} for "
                        f"{d.shape[0]} distances; it must return one weight for each")
    weight = np.array(np.broadcast_to(weight, d.shape), np.float64)
    bad = ~(np.isfinite(weight) & (weight >= 0)) & counted
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"loss {name}: the function returned the weight {weight[row]:g} for the distance "
                        f"{d[row]:g}; weights must be finite and not negative")
    return weight


def checked_numbers(what: str, returned, expected: tuple[int, ...]) -> np.ndarray:
    """Numbers of particles, float64 of the expected shape; UserError where they are something else, or masked."""
    values = _plain_array(what, returned)
    if values.dtype.kind not in "biuf" or values.shape != expected:
        got = f"an array of {values.dtype} of shape {values.shape}" if values.ndim else type(returned).__name__
        raise UserError(f"{what} returned {got}; expected numbers of shape {expected}, one for each particle")
    return values.astype(np.float64, copy=False)


def refuse_bad(what: str, values: np.ndarray, bad: np.ndarray, must: str) -> None:
    """Raise UserError naming the first of the values, (m,), that are `bad`, (m,) bool."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{what} returned {values[row]:g} for {int(bad.sum())} of {len(values)} particles; {must}")


def refuse_extreme(what: str, largest: float) -> None:
    """Raise UserError where the largest weight of all is too far from 1 for sums in single precision."""
    if not SMALLEST_WEIGHT <= largest <= LARGEST_WEIGHT:
        raise UserError(f"{what} returned weights of up to {largest:g}; the largest must be between "
                        f"{SMALLEST_WEIGHT:g} and {LARGEST_WEIGHT:g}, and that of a typical particle about 1: divide "
                        "them by their median")


def read_only(values: np.ndarray) -> np.ndarray:
    """An array that what a script gives may read, and not write into: it is the run's own."""
    view = values.view()
    view.flags.writeable = False
    return view


def checked_number(what: str, returned) -> float:
    """One number; UserError where it is something else, or not finite."""
    number = _plain_array(what, returned)
    if number.dtype.kind not in "iuf" or number.ndim or not np.isfinite(number):
        got = f"an array of shape {number.shape}" if number.ndim else shown(returned)
        raise UserError(f"{what} returned {got}; expected one finite number")
    return float(number)


def _plain_array(what: str, returned) -> np.ndarray:
    """What was returned as an array; an array of objects where it is none."""
    if np.ma.isMaskedArray(returned):
        raise UserError(f"{what} returned a masked array, whose mask would be lost; return plain numbers, such as "
                        "masked.filled(0)")
    try:
        return np.asarray(returned)
    except ValueError:
        return np.asarray(None)
