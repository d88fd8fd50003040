"""From half maps to the signal-to-noise ratio per shell that regularises the next solution."""

from __future__ import annotations

import numpy as np
import scipy.fft

from mpirecon.validate.fsc import shell_index

#: FSC above which more signal makes no difference to a Wiener filter
_HIGHEST_FSC = 0.99999

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


def wiener_filter(volume: np.ndarray, ssnr: np.ndarray) -> np.ndarray:
    """Multiply each shell of a (n, n, n) map by SSNR / (1 + SSNR); beyond the last shell by zero."""
    n = volume.shape[0]
    shell = np.minimum(shell_index(n), n // 2 + 1)
    factor = np.zeros(n // 2 + 2, np.float32)
    length = min(len(ssnr), n // 2 + 1)
    factor[:length] = (ssnr / (1 + ssnr))[:length]
    return scipy.fft.irfftn(scipy.fft.rfftn(np.asarray(volume, np.float32)) * factor[shell], s=volume.shape)
