"""What a .cs file says of lenses beyond defocus and Cs, in the Zernike coefficients that RELION's tables have.

cryoSPARC names its columns lengths in Å and documents neither signs nor factors. Those here are what the simulator
SPECTER derives from cryoSPARC's own code. With T a column, λ the wavelength, and k, φ the length and angle from x of a
frequency in the specimen:

=============  ===============================================================================================
column         phase
=============  ===============================================================================================
ctf/tilt_A     of the image's transform: +2πλ² T·k k²
ctf/trefoil_A  of the image's transform: +(2π/3) λ² k³ (T₀ cos 3φ + T₁ sin 3φ)
ctf/shift_A    of the image's transform: −2π T·k
ctf/tetra_A    added to the CTF's: −λ³ k⁴ (2π (T₀ cos 2φ + T₁ sin 2φ) + (π/2) (T₂ cos 4φ + T₃ sin 4φ))
=============  ===============================================================================================

csparc2star and those that follow it write a beam tilt +arcsin(T/Cs), whose phase in RELION is the opposite of the
first, and leave the rest out. SPECTER is the one source that says how it knows,
so that it is accepted unless the user says otherwise.
"""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.optics_table import ODD
from mpirecon.model.optics import electron_wavelength

#: term → (column, numbers in it, largest that is no misread column, Å)
TERMS = {
    "tilt": ("ctf/tilt_A", 2, 1e7),
    "trefoil": ("ctf/trefoil_A", 2, 1e7),
    "tetrafoil": ("ctf/tetra_A", 4, 1e9),
    "shift": ("ctf/shift_A", 2, 1e4),
}
#: what may be asked for by one word → term → sign with which it is applied
PRESETS: dict[str, dict[str, int]] = {
    "csparc2star": {"tilt": -1},
    "all": dict.fromkeys(TERMS, 1),
    "none": {},
}
DEFAULT = "all"
_EVEN = 9  # coefficients up to the fourth order


def signs_of(choice: str) -> dict[str, int]:
    """Term → sign, of a word of PRESETS or a list of terms such as ``tilt,-trefoil``.

    Raises
    ------
    ValueError
        saying what was expected.
    """
    if choice in PRESETS:
        return PRESETS[choice]
    chosen: dict[str, int] = {}
    for word in choice.split(","):
        term = word.strip().lstrip("+-")
        if term not in TERMS or term in chosen or len(word.strip()) > len(term) + 1:
            raise ValueError(f"{choice!r}: expected {', '.join(PRESETS)}, or some of {', '.join(TERMS)} with commas "
                             "between, each with a minus where its sign is to be turned, e.g. tilt,-trefoil")
        chosen[term] = -1 if word.strip().startswith("-") else 1
    return chosen


def own_optics(columns, choice: str) -> np.ndarray | None:
    """(m, 19) float64 of each particle, as ParticleTable.own; None where there is nothing to correct.

    columns : cs_file.CsColumns
    choice : which terms with which signs, see signs_of

    Raises
    ------
    UserError
        naming file and row for a length that no lens has.
    """
    signs = signs_of(choice)
    lengths = {term: _lengths(columns, term) for term in signs}
    matrix = columns.number("ctf/anisomag", width=(4,))
    if not (matrix.any() or any(values.any() for values in lengths.values())):
        return None
    # all 0 where it was never estimated; it is M − 1, but some programs write M
    matrix = np.where((matrix[:, [0, 3]] > 0.5).all(axis=1, keepdims=True), matrix, matrix + [1, 0, 0, 1])
    odd, even = np.zeros((len(matrix), ODD)), np.zeros((len(matrix), _EVEN))
    wavelength = electron_wavelength(columns.number("ctf/accel_kv", 300.0))
    for term, values in lengths.items():
        _ADD[term](odd, even, wavelength, signs[term] * values)
    return np.column_stack([odd, even, np.round(matrix, 7)])


def _lengths(columns, term: str) -> np.ndarray:
    name, width, most = TERMS[term]
    values = columns.number(name, width=(width,))
    beyond = (np.abs(values) > most).any(axis=1)
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise UserError(f"{columns.path}, row {row}: {name} is {values[row]} Å, larger than for any microscope "
                        f"({most:g} Å); was the column misread?")
    return values


# Coefficients stand in the order of model/aberrations.py: (1, −1), (1, 1), (3, −3), (3, −1), (3, 1), (3, 3), and (0,
# 0), (2, −2), (2, 0), (2, 2), (4, −4), (4, −2), (4, 0), (4, 2), (4, 4); the even ones count from the CTF's phase down.


def _add_tilt(odd: np.ndarray, even: np.ndarray, wavelength: np.ndarray, length: np.ndarray) -> None:
    part = 2 * np.pi * wavelength**2 / 3  # |k|²·kx = (Z(3, 1) + 2·Z(1, 1)) / 3
    x, y = part * length.T
    odd += np.column_stack([2 * y, 2 * x, 0 * x, y, x, 0 * x])


def _add_trefoil(odd: np.ndarray, even: np.ndarray, wavelength: np.ndarray, length: np.ndarray) -> None:
    part = 2 * np.pi * wavelength**2 / 3
    odd[:, 5] += part * length[:, 0]
    odd[:, 2] += part * length[:, 1]


def _add_shift(odd: np.ndarray, even: np.ndarray, wavelength: np.ndarray, length: np.ndarray) -> None:
    odd[:, 1] -= 2 * np.pi * length[:, 0]
    odd[:, 0] -= 2 * np.pi * length[:, 1]


def _add_tetrafoil(odd: np.ndarray, even: np.ndarray, wavelength: np.ndarray, length: np.ndarray) -> None:
    part = np.pi / 2 * wavelength**3  # |k|⁴ cos 2φ = (Z(4, 2) + 3·Z(2, 2)) / 4
    two_fold, four_fold = part[:, None] * length[:, :2], part[:, None] * length[:, 2:]
    even[:, [7, 5]] += two_fold
    even[:, [3, 1]] += 3 * two_fold
    even[:, [8, 4]] += four_fold


_ADD = {"tilt": _add_tilt, "trefoil": _add_trefoil, "tetrafoil": _add_tetrafoil, "shift": _add_shift}


def about(columns, choice: str) -> list[str]:
    """Warnings of what is left out, and of signs that are not sure."""
    signs = signs_of(choice)
    there = {term: name for term, (name, _, _) in TERMS.items() if name in columns and columns.array[name].any()}
    left_out = [name for term, name in there.items() if term not in signs]
    applied = {term: name for term, name in there.items() if term in signs}
    found = []
    if left_out:
        found.append(f"not corrected for: {', '.join(left_out)}; --cs-aberrations all corrects for everything in the "
                     f"file")
    if not applied:
        return found
    hint = "cryoSPARC does not document it: after reconstruct, mpirecon aberrations OUT checks it against the images"
    if choice == "csparc2star":
        found.append(f"ctf/tilt_A is corrected for with the sign that csparc2star gives it, the opposite of "
                     f"--cs-aberrations all; {hint}")
    else:
        turned = [name for term, name in applied.items() if signs[term] < 0]
        words = f" ({', '.join(turned)} turned)" if turned else ""
        found.append(f"{', '.join(applied.values())}: corrected for with the signs that SPECTER finds in cryoSPARC's "
                     f"code{words}; {hint}")
    return found
