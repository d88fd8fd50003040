"""What the user says of a table that its columns do not: the units of its numbers, and what was done to its images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mpirecon.errors import UserError, option_of

_ANGLE = {"degree": np.pi / 180, "radian": 1.0}

#: quantity → unit → its size; the unit that a format has its numbers in says what that is a multiple of.
#: A shift's may also be a number of Å
UNITS: dict[str, dict[str, float]] = {
    "defocus": {"A": 1.0, "nm": 10.0, "um": 1e4},
    "angles": _ANGLE,
    "defocus-angle": _ANGLE,
    "phase-shift": _ANGLE,
    "shift": {"A": 1.0, "pixel": np.nan},
    "voltage": {"kV": 1.0, "V": 1e-3},
    "amplitude-contrast": {"fraction": 1.0, "percent": 0.01},
}
_SPELLINGS = {"å": "A", "a": "A", "angstrom": "A", "µm": "um", "μm": "um", "micron": "um", "degrees": "degree",
              "deg": "degree",
              "radians": "radian", "rad": "radian", "pixels": "pixel", "px": "pixel", "kv": "kV", "v": "V",
              "%": "percent"}

#: which of a table's two shifts are x and y in the images, with their signs: what they are multiplied by
SHIFT_AXES = {
    "x,y": np.array([[1.0, 0.0], [0.0, 1.0]]), "-x,-y": np.array([[-1.0, 0.0], [0.0, -1.0]]),
    "y,x": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "x,-y": np.array([[1.0, 0.0], [0.0, -1.0]]), "-x,y": np.array([[-1.0, 0.0], [0.0, 1.0]]),
    "-y,-x": np.array([[0.0, -1.0], [-1.0, 0.0]]),
    "y,-x": np.array([[0.0, 1.0], [-1.0, 0.0]]), "-y,x": np.array([[0.0, -1.0], [1.0, 0.0]]),
}

#: quantities whose numbers may have the other sign
_SIGNED = ("defocus", "shift")

#: field of the CTF → what to do about a value that no microscope has
CTF_REMEDIES = {
    "voltage_kv": "where it is in volts, give --unit voltage=V; the right one for all can be given with --voltage",
    "defocus_u": "other units than Å can be named: --unit defocus=nm",
    "defocus_v": "other units than Å can be named: --unit defocus=nm",
    "astigmatism": "give the unit of the angle: --unit defocus-angle=degree or radian",
    "cs_mm": "give the spherical aberration in mm with --cs",
    "amplitude_contrast": "where it is in percent, give --unit amplitude-contrast=percent; the right one for all can "
    "be given with --amplitude-contrast",
    "phase_shift": "give the unit of the angle: --unit phase-shift=degree or radian",
    "bfactor": "--bfactor-sign says how it is meant",
}

#: RELION's columns about what was done to images → the options that speak instead of them
STATE_OPTIONS = {
    "rlnCtfDataAreCtfPremultiplied": "--ctf-premultiplied or --no-ctf-premultiplied",
    "rlnCtfDataArePhaseFlipped": "--ctf-phase-flipped or --no-ctf-phase-flipped",
}


#: fields of ImportOptions that decide how a table is read, whatever is made of its images
READING = ("data_dir", "stack", "mapping", "passthrough", "pixel_size", "scale_defocus", "voltage", "cs",
           "amplitude_contrast", "units",
           "shift_axes", "contrast", "bfactor_sign", "use_ctf", "ctf_premultiplied", "ctf_phase_flipped",
           "ignore_aberrations", "cs_aberrations",
           "select", "first", "new_halves", "family")


def refuse_reading(particles: str | os.PathLike, reading: Mapping) -> None:
    """Raise UserError where options of reading a table were given for a particle file."""
    if reading:
        named = ", ".join(map(option_of, reading))
        raise UserError(f"{particles} is a particle file: {named} must be given when a table is imported. Give the "
                        f"STAR or .cs file itself, or import it again")


def parse_unit(text: str) -> tuple[str, str]:
    """``defocus=um`` → (quantity, unit), a minus before the unit of a defocus or shift kept;
    that of a shift may be a number of Å.

    Raises
    ------
    ValueError
        saying what was expected.
    """
    quantity, _, unit = text.partition("=")
    quantity, unit = quantity.strip().lower(), unit.strip()
    minus, unit = ("-", unit[1:]) if unit.startswith(("-", "−")) else ("", unit)
    unit = unit if unit in UNITS.get(quantity, {}) else _SPELLINGS.get(unit.lower(), unit.lower())
    known = unit in UNITS.get(quantity, {}) or (quantity == "shift" and _angstrom(unit) is not None)
    if not known or (minus and quantity not in _SIGNED):
        listed = "; ".join(f"{name}={'|'.join(units)}" for name, units in UNITS.items())
        raise ValueError(f"{text!r}: expected QUANTITY=UNIT, one of {listed}, or shift=NUMBER, the Å that it counts in "
                         "(0: there are no shifts); defocus=-A (-nm, -um) where underfocus is negative, and likewise "
                         "shift=-A (-pixel)")
    return quantity, minus + unit


def _angstrom(unit: str) -> float | None:
    """A unit that is a number of Å; None where it is none."""
    try:
        value = float(unit)
    except ValueError:
        return None
    return value if np.isfinite(value) and value >= 0 else None


@dataclass(frozen=True)
class Reading:
    """How a table is to be read.

    units : quantity → unit (UNITS), where the user named it
    shift_axes : which of the table's two shifts are x and y (SHIFT_AXES)
    no_ctf : the images have no CTF, or are not to be corrected for it: it is 1 everywhere
    premultiplied, phase_flipped : whether images were multiplied by their CTF, or by its sign; None: what the table
        says
    """

    units: Mapping[str, str] = field(default_factory=dict)
    no_ctf: bool = False
    premultiplied: bool | None = None
    phase_flipped: bool | None = None
    shift_axes: str = "x,y"

    @property
    def has_shift_unit(self) -> bool:
        return "shift" in self.units

    def shifts(self, numbers: np.ndarray, own: float | np.ndarray, angstrom: float | np.ndarray,
               pixel: float | np.ndarray) -> np.ndarray:
        """A table's numbers (m, 2), which put the particle's origin where RELION does, as shifts in Å of the images.

        own, angstrom, pixel : Å, one or (m,): of the unit that the format has them in, of what it takes for 1 Å, of a
            pixel
        """
        unit = self.units.get("shift")
        if unit is not None:
            name = unit.lstrip("-")
            own = {"A": angstrom, "pixel": pixel}[name] if name in UNITS["shift"] else float(name)
            own = -own if unit.startswith("-") else own
        return 0.0 - (numbers * np.reshape(own, (-1, 1))) @ SHIFT_AXES[self.shift_axes].T

    def factor(self, quantity: str, own: str) -> float:
        """What numbers of a format that has them in the unit `own` are to be multiplied by."""
        unit = self.units.get(quantity, own)
        sign = -1.0 if unit.startswith("-") else 1.0
        return sign * UNITS[quantity][unit.lstrip("-")] / UNITS[quantity][own]


def refuse_beyond(columns, name: str, values: np.ndarray, most: float, unit: str) -> None:
    """Raise UserError naming the first row where values (m,) that come of one of the columns are beyond `most`."""
    beyond = np.abs(values) > most
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise UserError(f"{columns.place(row)}: by {name} it is {values[row]:g} {unit} ({int(beyond.sum())} such "
                        f"rows); is it a misread number?")


def settle_state(premultiplied: bool, phase_flipped: bool, reading: Reading, notes: list[str]) -> tuple[bool, bool]:
    """(CTF-premultiplied, phase-flipped) of images of which both may be said; adds to notes what the user should know.

    Multiplied by the CTF, an image whose phases were flipped before is what it would have been without the flip.
    """
    if reading.no_ctf and (premultiplied or phase_flipped):
        what = "CTF-premultiplied" if premultiplied else "phase-flipped"
        notes.append(f"--no-ctf: that the images are {what} is not taken into account")
        return False, False
    if premultiplied and phase_flipped:
        notes.append("the images are CTF-premultiplied: whether their phases were flipped before makes no difference")
    return premultiplied, phase_flipped and not premultiplied
