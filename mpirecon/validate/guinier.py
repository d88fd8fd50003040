"""Guinier plot, B-factor and sharpening (Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.kernels import fft
from mpirecon.validate.fsc import filter_transform, shell_count, shell_sum

#: coarser than this the shape of the particle shapes its spectrum, finer ones fall off by the B-factor
COARSEST = 10.0

#: the fit needs so many shells, and must reach this resolution
_FEWEST_SHELLS, _FINEST_NEEDED = 6, 8.5

#: shells over which the sharpened map is faded out at its resolution
_FADE = 2.0


@dataclass(frozen=True)
class Guinier:
    """ln of the mean amplitude per shell against 1/d², and the line through it.

    inverse_d2 : (shells,) 1/Å²
    amplitude : (shells,) ln of the mean amplitude
    weighted : likewise, times C_ref
    bfactor : Å², negative where amplitudes fall off; None when it could not be fitted
    intercept, correlation : of the line
    used : (coarsest, finest) Å
    note : why there is none
    """

    inverse_d2: np.ndarray
    amplitude: np.ndarray
    weighted: np.ndarray
    bfactor: float | None
    intercept: float | None
    correlation: float | None
    used: tuple[float, float] | None
    note: str | None

    def as_dict(self) -> dict:
        """Everything, for summary.json."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def figure_of_merit(fsc: np.ndarray) -> np.ndarray:
    """C_ref = √(2 FSC / (1 + FSC)), 0 where the FSC is not positive: correlation of both halves' map and the truth."""
    curve = np.clip(fsc, 0, 1)
    return np.sqrt(2 * curve / (1 + curve))


def guinier(volume: np.ndarray, pixel_size: float, fsc: np.ndarray, resolution: float | None) -> Guinier:
    """B-factor of a map from the fall of its amplitudes, weighted by C_ref, between 10 Å and its resolution.

    Parameters
    ----------
    volume : (n, n, n) float, mean of the half maps, masked: the noise of the solvent would hide part of the fall
    fsc : (n // 2 + 1,) of the half maps, corrected for the mask
    resolution : Å where that falls below 0.143; None is Nyquist

    The B-factor is refused (None, with a note) where the resolution is worse than 8.5 Å or fewer than six shells would
    be fitted: what falls off there is the particle's shape.
    """
    return guinier_of_transform(fft.rfftn(np.asarray(volume, np.float32)), pixel_size, fsc, resolution)


def guinier_of_transform(transform: np.ndarray, pixel_size: float, fsc: np.ndarray,
                         resolution: float | None) -> Guinier:
    """As `guinier`, of the map's half transform (n, n, n // 2 + 1)."""
    box = transform.shape[0]
    mean = shell_sum(np.abs(transform), box) / shell_count(box)
    shells = np.arange(1, box // 2 + 1)
    d = box * pixel_size / shells
    with np.errstate(divide="ignore"):
        plain, weighted = np.log(mean[1:]), np.log(mean[1:] * figure_of_merit(fsc)[1:])
    finest = resolution or 2 * pixel_size
    fitted = (d <= COARSEST) & (d >= finest) & np.isfinite(weighted)
    keep = np.isfinite(plain)
    curves = (1 / d[keep] ** 2, plain[keep], np.where(np.isfinite(weighted), weighted, np.nan)[keep])
    if finest > _FINEST_NEEDED:
        note = f"no B-factor: it needs a resolution of {_FINEST_NEEDED:g} Å or better, and this is {finest:.1f} Å"
    elif fitted.sum() < _FEWEST_SHELLS:
        note = (f"no B-factor: only {int(fitted.sum())} shells lie between {COARSEST:g} Å and {finest:.1f} Å in this "
                f"box, and it needs {_FEWEST_SHELLS}")
    else:
        x, y = 1 / d[fitted] ** 2, weighted[fitted]
        slope, intercept = np.polyfit(x, y, 1)
        used = (float(d[fitted].max()), float(d[fitted].min()))
        return Guinier(*curves, 4 * float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1]), used, None)
    return Guinier(*curves, None, None, None, None, note)


def sharpen_transform(
    transform: np.ndarray, pixel_size: float, fsc: np.ndarray, bfactor: float | None, resolution: float | None
) -> np.ndarray:
    """The map weighted by C_ref and exp(−B k²/4), faded out over two shells at its resolution, (n, n, n) float32.

    transform : (n, n, n // 2 + 1) half transform of the mean of the half maps, overwritten
    bfactor : Å², negative sharpens; None does not
    resolution : Å; None is Nyquist
    """
    box = transform.shape[0]
    shells = np.arange(box // 2 + 1)
    k2 = (shells / (box * pixel_size)) ** 2
    gain = figure_of_merit(fsc) * np.exp(-(bfactor or 0.0) * k2 / 4)
    if resolution:
        last = box * pixel_size / resolution
        gain *= 0.5 + 0.5 * np.cos(np.pi * np.clip((shells - last) / _FADE + 0.5, 0, 1))
    gain[0] = 1.0
    return filter_transform(transform, gain)
