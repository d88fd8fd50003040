"""From half maps to the signal-to-noise ratio per shell that regularises the next solution."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.validate.fsc import filter_shells, filter_transform, lowest_frequencies

#: FSC above which more signal makes no difference to a Wiener filter
_HIGHEST_FSC = 0.99999

#: SSNR of a shell (FSC 0.143) beyond which a map shows nothing, and the width over which its power is averaged:
#: standard deviation of a Gaussian, in pixels at least, and in resolutions
_LEAST_SSNR, _LOCAL_PIXELS, _LOCAL_RESOLUTIONS = 1 / 6, 1.5, 0.65

#: variance, pixels², that a mean over two voxels and the linear interpolation between such means add
_BY_HALVING = 1 / 4 + 2 / 3

#: fraction of the evidence about particles that references hold
_COMPARED = 0.99

#: shells with too few samples for their FSC to be smoothed or to cap the others
_FIRST_RELIABLE = 3


def regular_fsc(curve: np.ndarray) -> np.ndarray:
    """FSC smoothed over three shells and made non-increasing, (n // 2 + 1,), within [0, 0.99999].

    Single noisy shells would otherwise switch signal on and off; signal beyond the first loss of correlation is noise.
    """
    smooth = np.array(curve, np.float64)
    smooth[1:-1] = (curve[:-2] + 2 * curve[1:-1] + curve[2:]) / 4
    smooth[:_FIRST_RELIABLE] = curve[:_FIRST_RELIABLE]
    smooth[_FIRST_RELIABLE:] = np.minimum.accumulate(smooth[_FIRST_RELIABLE:])
    return np.clip(smooth, 0, _HIGHEST_FSC)


def ssnr_of_half(curve: np.ndarray) -> np.ndarray:
    """Spectral signal-to-noise ratio of one half map, FSC / (1 − FSC)."""
    f = regular_fsc(curve)
    return f / (1 - f)


def ssnr_of_whole(curve: np.ndarray) -> np.ndarray:
    """Spectral signal-to-noise ratio of the map of both halves, 2 FSC / (1 − FSC)."""
    return 2 * ssnr_of_half(curve)


def finest_compared(ssnr: np.ndarray) -> int:
    """The shell up to which a map of this SSNR per shell holds nearly all that particles can be compared in;
    the last without any.

    A particle's evidence, yp²/pp, is expected to be its signal over its noise times what of the map is signal: of shell
    k, in proportion to k²·SSNR·FSC.
    """
    evidence = np.cumsum(np.square(np.arange(len(ssnr))) * ssnr * ssnr / (1 + ssnr))
    return int(np.searchsorted(evidence, _COMPARED * evidence[-1])) if evidence[-1] > 0 else len(ssnr) - 1


def wiener_filter(transform: np.ndarray, ssnr: np.ndarray, box: int | None = None) -> np.ndarray:
    """The map of a half transform (n, n, n // 2 + 1), which is overwritten, with each shell times SSNR / (1 + SSNR),
    and beyond the last times zero; float32.

    box : of what is returned, the map's lowest frequencies alone, of the same projections; even if it is not the map's
        own
    """
    return filter_transform(transform if box in (None, len(transform)) else lowest_frequencies(transform, box),
                            ssnr / (1 + ssnr))


def _local_power(volume: np.ndarray, width: float) -> np.ndarray:
    """A (n, n, n) float32 map's square, averaged over a Gaussian of standard deviation `width`, pixels; periodic.

    Of an even box, (n/2, n/2, n/2): means of 2 × 2 × 2 voxels, which is fine enough for what is as smooth.
    """
    power = np.square(volume)
    if len(volume) % 2 == 0:
        for _ in range(3):  # halves the first axis and makes it the last
            power = np.moveaxis(power[0::2] + power[1::2], 0, 2)
        power = np.ascontiguousarray(power) / np.float32(8)
        width = max(width**2 - _BY_HALVING, 0.0) ** 0.5 / 2
    m = len(power)
    full, half = (np.exp(-2 * (np.pi * width * f) ** 2).astype(np.float32)
                  for f in (fft.fftfreq(m), fft.rfftfreq(m)))
    spectrum = fft.rfftn(power)
    spectrum *= full[:, None, None]
    spectrum *= full[:, None] * half
    return fft.irfftn(spectrum, s=power.shape)


def _doubled(values: np.ndarray) -> np.ndarray:
    """(m, m, m) means of 2 × 2 × 2 voxels → (2m, 2m, 2m), linearly interpolated; periodic."""
    for axis in range(3):
        near = np.float32(0.75) * values
        far = values / np.float32(4)
        out = np.empty((*values.shape[:axis], values.shape[axis], 2, *values.shape[axis + 1 :]), np.float32)
        even, odd = (out[(slice(None),) * (axis + 1) + (k,)] for k in (0, 1))
        np.add(near, np.roll(far, 1, axis), out=even)
        np.add(near, np.roll(far, -1, axis), out=odd)
        values = out.reshape(*values.shape[:axis], 2 * values.shape[axis], *values.shape[axis + 1 :])
    return values


def local_wiener(volume: np.ndarray, noise: float, ssnr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A reference without the noise about its particle, (n, n, n) float32.

    A Wiener-filtered map is multiplied by 1 − noise / local power, where that is positive: solvent holds noise alone.
    What is left holds less noise than its shells' SSNR says, by the ratio of the volumes,
    and is filtered less by as much.

    volume : (n, n, n) float32, filtered for `ssnr` within `mask`
    noise : mean power of its noise within the mask
    ssnr : (n // 2 + 1,) signal-to-noise per shell within the mask.
    """
    n = volume.shape[0]
    # wide enough to average over several independent voxels: neighbours are independent about a resolution apart
    finest = max(int(np.flatnonzero(np.concatenate([[np.inf], ssnr]) > _LEAST_SSNR)[-1]), 1)
    width = min(max(_LOCAL_PIXELS, _LOCAL_RESOLUTIONS * n / finest), n / 8)
    power = _local_power(volume, width)
    # 0 where there is no more power than noise
    local = 1 - np.float32(noise) / np.maximum(power, np.float32(max(noise, np.finfo(np.float32).tiny)))
    local = (local if len(local) == n else _doubled(local)) * (mask > 0)
    kept = float(np.einsum("zyx,zyx->", local, local, dtype=np.float64))
    if not kept > 0:
        return volume
    less = max(float(np.einsum("zyx,zyx->", mask, mask, dtype=np.float64)) / kept, 1.0)
    better = less * ssnr
    gain = np.divide(better / (1 + better), ssnr / (1 + ssnr), out=np.ones_like(ssnr), where=ssnr > 0)
    out = filter_shells(volume, gain)
    out *= local
    return out
