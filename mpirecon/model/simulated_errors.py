"""Simulated errors of poses and CTFs, with the truth recorded:
drawn by seed and particle id, never by ranks or order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.draws import particle_rng, draw_pose_errors, uniform_draws
from mpirecon.model.particles import TRUTH, ParticleSet
from mpirecon.model.pose import Pose

#: Å: errors beyond this are numbers in another unit
_FARTHEST = 50_000.0


@dataclass(frozen=True, kw_only=True)
class ErrorSettings:
    """Which errors are simulated, in addition to wrong orientations, for simulated and imported particles alike.

    Parameters
    ----------
    offset_error : float, Å
        standard deviation, along x and along y, of what is added to the offsets (shifts)
    offset_error_rate : float or None, 0 … 1
        fraction of particles whose offset is wrong; None: those whose orientation is
    defocus_error : float, Å
        added to defocus U and V alike: a normal number of this standard deviation (defocus_error_kind
        ``"gaussian"``), or this value (``"fixed"``), which may be negative
    defocus_error_rate : float or None, 0 … 1
        fraction of particles whose defocus is wrong; None: all
    inverted_hand_rate : float, 0 … 1
        fraction of particles with the pose that they have in the map of opposite hand, V(−r)
    duplicate_rate : float, 0 … 1
        fraction of particles of which a copy is added to the other half set

    Raises
    ------
    UserError
        naming the option, the value and the range it must lie in.
    """

    offset_error: float = 0.0
    offset_error_rate: float | None = None
    defocus_error: float = 0.0
    defocus_error_kind: str = "gaussian"
    defocus_error_rate: float | None = None
    inverted_hand_rate: float = 0.0
    duplicate_rate: float = 0.0

    @property
    def orientation_errors(self) -> tuple[float, float | None]:
        """(fraction of particles with a wrong orientation, degrees of small turns or None for any orientation)."""
        raise NotImplementedError

    @property
    def simulates_errors(self) -> bool:
        """Whether any error is requested."""
        asked = (self.orientation_errors[0], self.offset_error, self.defocus_error, self.inverted_hand_rate,
                 self.duplicate_rate)
        return any(asked)

    def check_errors(self) -> None:
        """Raise UserError for values out of range, and for those that would silently have no effect."""
        rate, degrees = self.orientation_errors
        _within("--orientation-error-rate", rate, 0, 1)
        _within("--orientation-error", degrees or 0.0, 0, 180, "degrees")
        _within("--inverted-hand-rate", self.inverted_hand_rate, 0, 1)
        _within("--duplicate-rate", self.duplicate_rate, 0, 1)
        fixed = self.defocus_error_kind == "fixed"
        if not fixed and self.defocus_error_kind != "gaussian":
            raise UserError(f"--defocus-error-kind is {self.defocus_error_kind!r}, expected 'gaussian' or 'fixed'")
        _within("--offset-error", self.offset_error, 0, _FARTHEST, "Å")
        _within("--defocus-error", self.defocus_error, -_FARTHEST if fixed else 0, _FARTHEST, "Å")
        for what, error, share in (("offset", self.offset_error, self.offset_error_rate),
                                   ("defocus", self.defocus_error, self.defocus_error_rate)):
            if share is not None:
                _within(f"--{what}-error-rate", share, 0, 1)
                if not error:
                    raise UserError(f"--{what}-error-rate is the fraction of wrong ones; give the size of the error "
                                    f"with --{what}-error Å")
        if self.offset_error_rate is None and self.offset_error and not rate:
            raise UserError(f"--offset-error {self.offset_error:g} applies to particles with wrong orientations, and "
                            "there are none; give the fraction of particles with --offset-error-rate")


@dataclass(frozen=True)
class SimulatedErrors:
    """Poses and CTFs with errors in them, and what is known of these:
    names of ParticleSet's fields → values of m particles."""

    pose: Pose
    ctf: np.ndarray
    truth: dict[str, np.ndarray]


def simulate_errors(
    settings: ErrorSettings, seed: int, ids: np.ndarray, pose: Pose, ctf: np.ndarray, groups: np.ndarray | None = None,
    spared: np.ndarray | None = None,
) -> SimulatedErrors:
    """Simulate the errors of `settings`, except duplicates (`copied`).

    Parameters
    ----------
    ids : (m,) int64, by which errors are drawn
    pose, ctf : Pose and (m,) CTF_DTYPE, the true ones
    groups : (m,) int64 or None
        rows of one group are wrong together, each by a different error
    spared : (m,) bool or None
        particles that get no error (junk has no pose to be wrong)
    """
    spared = np.zeros(len(ids), bool) if spared is None else spared
    rate, degrees = settings.orientation_errors
    quaternion, turned = draw_pose_errors(seed, ids, pose.quaternion, rate, degrees, groups)
    turned &= ~spared
    quaternion = np.where(turned[:, None], quaternion, pose.quaternion)
    shift, truth = pose.shift, {}
    if settings.offset_error:
        share = settings.offset_error_rate
        moved = turned if share is None else _drawn(seed, ids, groups, "offset-error-flag", share) & ~spared
        shift = shift + settings.offset_error * _normals(seed, ids, moved, "offset-error", 2)
        truth |= {"planted_offset": moved, "true_shift": pose.shift}
    if rate:
        truth["planted_orientation"] = turned
    if settings.inverted_hand_rate:
        hand = _drawn(seed, ids, groups, "inverted-hand", settings.inverted_hand_rate) & ~spared
        quaternion = np.where(hand[:, None], of_other_hand(quaternion), quaternion)
        truth["planted_hand"] = hand
    if settings.defocus_error:
        given, defocused = _with_wrong_defocus(settings, seed, ids, ctf, groups, spared)
        truth |= {"planted_defocus": defocused, "true_defocus": np.column_stack([ctf["defocus_u"], ctf["defocus_v"]])}
        ctf = given
    wrong = turned | truth.get("planted_offset", False) | truth.get("planted_hand", False)
    return SimulatedErrors(
        Pose(quaternion, shift), ctf, {"pose_error": wrong, "true_quaternion": pose.quaternion, **truth}
    )


def of_other_hand(quaternion: np.ndarray) -> np.ndarray:
    """(m, 4) orientations in which V(−r) projects as V(r) does in these: psi + 180°.

    V(−r) is the map of opposite hand (relion_image_handler --invert_hand mirrors at a plane instead, which is the same
    map turned). Its transform is V̂(−k), so that the slice at Rᵀ(kx, ky, 0) is that of V at Rᵀ(−kx, −ky, 0): R' =
    Rz(180°) R. The inversion commutes with all rotations, so that this holds in every setting of every point group.
    """
    w, x, y, z = quaternion.T
    return np.column_stack([-z, -y, x, w])


def _with_wrong_defocus(
    settings: ErrorSettings, seed: int, ids: np.ndarray, ctf: np.ndarray, groups: np.ndarray | None, spared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(m,) CTF_DTYPE with errors of defocus, and (m,) bool where."""
    share = settings.defocus_error_rate
    rows = ~spared if share is None else _drawn(seed, ids, groups, "defocus-error-flag", share) & ~spared
    size = rows if settings.defocus_error_kind == "fixed" else _normals(seed, ids, rows, "defocus-error", 1)[:, 0]
    out = ctf.copy()
    for field in ("defocus_u", "defocus_v"):
        out[field] += settings.defocus_error * size
    return out, rows


def copied(settings: ErrorSettings, seed: int, ids: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """(m,) bool, the particles (or all rows of a group) of which a copy is added in the other half set."""
    if not settings.duplicate_rate:
        return np.zeros(len(ids), bool)
    return _drawn(seed, ids, groups, "duplicate", settings.duplicate_rate)


def count_kinds(particles: ParticleSet) -> dict[str, int]:
    """Kind of error (orientation, offset …) → how many of these particles have it, of the kinds that were simulated."""
    flags = {name.removeprefix("planted_"): getattr(particles, name) for name in TRUTH if name.startswith("planted_")}
    if particles.duplicate_of is not None:
        flags["duplicate"] = particles.duplicate_of >= 0
    return {kind: int(of.sum()) for kind, of in flags.items() if of is not None}


def _drawn(seed: int, ids: np.ndarray, groups: np.ndarray | None, purpose: str, rate: float) -> np.ndarray:
    """(m,) bool, a random fraction of the particles, or of the groups."""
    return uniform_draws(seed, ids if groups is None else groups, purpose) < rate


def _normals(seed: int, ids: np.ndarray, rows: np.ndarray, purpose: str, count: int) -> np.ndarray:
    """(m, count) standard normal numbers of the particles of `rows` (bool), zeros elsewhere."""
    out = np.zeros((len(ids), count))
    for row in np.flatnonzero(rows):
        out[row] = particle_rng(seed, int(ids[row]), purpose).standard_normal(count)
    return out


def _within(option: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:  # also refuses NaN
        unit = f" {unit}" if unit else ""
        raise UserError(f"{option} is {value:g}{unit}, expected {low:g} … {high:g}{unit}")


def in_words(counts: dict[str, int], poses: int) -> str:
    """How many of so many wrong poses are wrong in what, in brackets; "" if it would only repeat their number."""
    parts = [f"{count} {_WORDS[kind]}" for kind, count in counts.items() if kind in _WORDS]
    return f" ({', '.join(parts)})" if parts and (len(parts) > 1 or counts.get("orientation") != poses) else ""


def others_in_words(counts: dict[str, int]) -> str:
    """How many have errors other than of the pose; "" if none has."""
    words = {"defocus": "with a wrong defocus", "duplicate": "added as copies in the other half set"}
    return ", ".join(f"{counts[kind]} {text}" for kind, text in words.items() if kind in counts)


#: of kinds that make a pose wrong
_WORDS = {"orientation": "in orientation", "offset": "in offset", "hand": "of opposite hand"}
