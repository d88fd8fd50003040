"""Contrast-transfer parameters of particles, and the check that they are within reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kinds import Natural, of_kind
from mpirecon.model.devices import numbers_of

#: one row per particle; defocus in Å (positive is underfocus), angles in radians, B in Å²
CTF_DTYPE = np.dtype(
    [
        ("voltage_kv", "f8"),
        ("defocus_u", "f8"),
        ("defocus_v", "f8"),
        ("astigmatism", "f8"),
        ("cs_mm", "f8"),
        ("amplitude_contrast", "f8"),
        ("phase_shift", "f8"),
        ("bfactor", "f8"),
        ("scale", "f8"),
    ]
)

#: field → (lowest, highest, unit): generous bounds, outside which a column was surely misread
CTF_BOUNDS = {
    "voltage_kv": (20.0, 2000.0, "kV"),
    "defocus_u": (-500_000.0, 500_000.0, "Å"),
    "defocus_v": (-500_000.0, 500_000.0, "Å"),
    "astigmatism": (-100.0, 100.0, "rad"),
    "cs_mm": (-50.0, 50.0, "mm"),
    "amplitude_contrast": (-1.0, 1.0, "fraction"),
    "phase_shift": (-20.0, 20.0, "rad"),
    "bfactor": (-2000.0, 10_000.0, "Å²"),
    "scale": (-1000.0, 1000.0, "factor"),
}


def electron_wavelength(voltage_kv) -> np.ndarray:
    """Relativistic electron wavelength in Å for an accelerating voltage in kV."""
    volts = np.asarray(voltage_kv, dtype=np.float64) * 1e3
    return 12.2642598 / np.sqrt(volts * (1.0 + volts * 0.978475598e-6))


def curvature_resolution(diameter: float, voltage_kv: float) -> float:
    """Resolution in Å beyond which flat slices through a particle of that diameter (Å) suffer from the curvature of the
    Ewald sphere.

    Up to there the FSC of a noiseless map with the truth is above 0.95,
    for density spread evenly through a ball (docs/method.md).
    """
    return float(np.sqrt(electron_wavelength(voltage_kv) * diameter / 1.287))


def make_ctf(m: int, **fields) -> np.ndarray:
    """CTF parameters of m particles.

    Parameters
    ----------
    m : int
        number of particles
    **fields : float or (m,) float
        fields of CTF_DTYPE: ``voltage_kv`` [kV], ``defocus_u``, ``defocus_v`` [Å, positive is underfocus],
        ``astigmatism`` [rad], ``cs_mm`` [mm], ``amplitude_contrast``, ``phase_shift`` [rad], ``bfactor`` [Å²],
        ``scale``; the default is 0, of ``scale`` 1, of ``defocus_v`` that of ``defocus_u``: no astigmatism

    Returns
    -------
    (m,) CTF_DTYPE

    Raises
    ------
    UserError
        for a name that is no field, values that are no numbers or not m of them, and values that no microscope has.
    """
    m = of_kind(m, Natural, "m=")
    for name, value in fields.items():
        _check_field(m, name, value)
    if "defocus_v" in fields and "defocus_u" not in fields:
        raise UserError("make_ctf: defocus_v without defocus_u; give both (Å), or defocus_u alone where there is no "
                        "astigmatism")
    ctf = ctf_rows(m, **fields)
    if "defocus_v" not in fields:
        ctf["defocus_v"] = ctf["defocus_u"]
    check_ctf(ctf, lambda row: f"make_ctf: particle {row}", fields=fields)
    return ctf


def ctf_rows(m: int, **fields) -> np.ndarray:
    """Rows of CTF_DTYPE for m particles, (m,), as they are in a table: what is not given is 0, ``scale`` 1. Nothing is
    checked."""
    ctf = np.zeros(m, CTF_DTYPE)
    ctf["scale"] = 1.0
    for name, value in fields.items():
        ctf[name] = value
    return ctf


def as_ctf(given, m: int) -> np.ndarray:
    """(m,) CTF_DTYPE of a structured array with its fields, which are taken by their names, whatever their order.

    Raises
    ------
    UserError
        for anything else.
    """
    advice = "make it by make_ctf(m, voltage_kv=300, defocus_u=…), with the columns of a table by name"
    names = given.dtype.names if isinstance(given, np.ndarray) else None
    if names is None or set(names) != set(CTF_DTYPE.names):
        got = type(given).__name__ if names is None else f"fields {', '.join(names)}"
        raise UserError(f"ctf: expected a structured array with {', '.join(CTF_DTYPE.names)}, got {got}; {advice}")
    if given.shape != (m,):
        raise UserError(f"ctf: its shape is {given.shape} for {m} images; {advice}")
    ctf = np.empty(m, CTF_DTYPE)
    for name in CTF_DTYPE.names:
        _check_field(m, name, given[name])
        ctf[name] = given[name]
    return ctf


def _check_field(m: int, name: str, value) -> None:
    """Raise UserError where a field's values are not m numbers, or one."""
    if name not in CTF_DTYPE.names:
        raise UserError(f"make_ctf: there is no field {name!r}; fields are {', '.join(CTF_DTYPE.names)}")
    values = numbers_of(value, f"make_ctf: {name}")
    if values.shape not in ((), (1,), (m,)):
        raise UserError(f"make_ctf: {name} has shape {values.shape} for {m} particles; give one number, or {m}")


def check_ctf(ctf: np.ndarray, describe_row=lambda row: f"particle {row}",
              remedies: Mapping[str, str] = MappingProxyType({}), fields: Collection[str] = tuple(CTF_BOUNDS)) -> None:
    """Raise UserError naming the first row and field that is NaN or outside CTF_BOUNDS, and the field's remedy.

    fields : those that are checked
    """
    for field, (low, high, unit) in CTF_BOUNDS.items():
        if field not in fields:
            continue
        values = ctf[field]
        bad = ~(np.isfinite(values) & (values >= low) & (values <= high))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{describe_row(row)}: CTF {field} is {values[row]:g} {unit}, outside {low:g} … {high:g} {unit}; check "
                f"the column and its unit{'; ' if field in remedies else ''}{remedies.get(field, '')}"
            )
