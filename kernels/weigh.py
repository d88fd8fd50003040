"""What a batch adds to the normal equations, sample by sample: w s C ŷ and w s² C²."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def weigh(data, ctf, on_data, on_weight, column, premultiplied, numerator, weight):
    """numerator = on_data · C · ŷ (no C for premultiplied images), weight = on_weight · C².

    data : (m, s) complex64
    ctf : (m, s) float32
    on_data, on_weight : (m, c) float32, of which sample s takes column[s]
    column : (s,) int32
    numerator : (m, s) complex64 and weight : (m, s) float32, overwritten.
    """
    for i in range(data.shape[0]):
        if on_data.shape[1] == 1:  # nothing is looked up, and LLVM can vectorise the loop
            a, b = on_data[i, 0], on_weight[i, 0]
            for s in range(column.size):
                c = ctf[i, s]
                factor = a if premultiplied else a * c
                numerator[i, s] = complex(factor * data[i, s].real, factor * data[i, s].imag)
                weight[i, s] = b * (c * c)
            continue
        for s in range(column.size):
            c, k = ctf[i, s], column[s]
            factor = on_data[i, k] if premultiplied else on_data[i, k] * c
            numerator[i, s] = np.complex64(complex(factor * data[i, s].real, factor * data[i, s].imag))
            weight[i, s] = on_weight[i, k] * (c * c)
