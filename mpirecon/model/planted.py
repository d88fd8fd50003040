"""Errors planted on purpose into poses and CTFs, with the truth kept: by seed and particle id, never by ranks or order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.draws import particle_rng, plant_pose_errors, uniform_draws
from mpirecon.model.particles import TRUTH, ParticleSet
from mpirecon.model.pose import Pose

#: Å: errors beyond this are numbers in another unit
_FARTHEST = 10_000.0


@dataclass(frozen=True, kw_only=True)
class ErrorSettings:
    """Which errors are planted, beside wrong orientations, into simulated and imported particles alike.

    Parameters
    ----------
    offset_error : float, Å
        standard deviation, along x and along y, of what is added to the offsets (shifts)
    offset_error_rate : float or None, 0 … 1
        fraction of particles whose offset is wrong; None: those whose orientation is

    Raises
    ------
    UserError
        naming the option, the value and the range it must lie in.
    """

    offset_error: float = 0.0
    offset_error_rate: float | None = None

    @property
    def orientation_errors(self) -> tuple[float, float | None]:
        """(fraction of particles with a wrong orientation, degrees of small turns or None for any orientation)."""
        raise NotImplementedError

    @property
    def plants(self) -> bool:
        """Whether any error is asked for."""
        return self.orientation_errors[0] > 0 or self.offset_error > 0

    def check_errors(self) -> None:
        """Raise UserError for values out of range, and for those that would silently plant nothing."""
        rate, degrees = self.orientation_errors
        _within("--orientation-error-rate", rate, 0, 1)
        _within("--orientation-error", degrees or 0.0, 0, 180, "degrees")
        _within("--offset-error", self.offset_error, 0, _FARTHEST, "Å")
        if self.offset_error_rate is not None:
            _within("--offset-error-rate", self.offset_error_rate, 0, 1)
            if not self.offset_error:
                raise UserError("--offset-error-rate says how many offsets are wrong; say by how much with --offset-error Å")
        elif self.offset_error and not rate:
            raise UserError(f"--offset-error {self.offset_error:g}: no orientation errors are planted, whose particles it would go with; "
                            "give the fraction of particles with --offset-error-rate")


@dataclass(frozen=True)
class Planted:
    """Poses with errors in them, and what is known of these: names of ParticleSet's fields → values of m particles."""

    pose: Pose
    truth: dict[str, np.ndarray]


def plant(
    settings: ErrorSettings, seed: int, ids: np.ndarray, pose: Pose, groups: np.ndarray | None = None,
    spared: np.ndarray | None = None,
) -> Planted:
    """Plant what `settings` ask for.

    Parameters
    ----------
    ids : (m,) int64, by which errors are drawn
    pose : Pose, the true one
    groups : (m,) int64 or None
        rows of one group are wrong together, each by an error of its own
    spared : (m,) bool or None
        particles that get no error (junk has no pose to be wrong)
    """
    spared = np.zeros(len(ids), bool) if spared is None else spared
    rate, degrees = settings.orientation_errors
    quaternion, turned = plant_pose_errors(seed, ids, pose.quaternion, rate, degrees, groups)
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
    wrong = turned | truth.get("planted_offset", False)
    return Planted(Pose(quaternion, shift), {"pose_error": wrong, "true_quaternion": pose.quaternion, **truth})


def count_kinds(particles: ParticleSet) -> dict[str, int]:
    """Kind of error (orientation, offset …) → how many of these particles have it, of the kinds that were planted."""
    flags = {name.removeprefix("planted_"): getattr(particles, name) for name in TRUTH if name.startswith("planted_")}
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
