"""Which Fourier samples a statistics pass sums over, and how it weighs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Bands:
    """gain : (s,) float32, multiplicity / noise power · band : (s,) int8, 0 score band, 1 its high-frequency part
    (the noise band), −1 outside · samples : full-plane samples in the score band and in the noise band.
    """

    gain: np.ndarray
    band: np.ndarray
    samples: tuple[float, float]
    whitened: bool
