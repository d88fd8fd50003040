"""The dot test: ⟨Ax, y⟩ = ⟨x, Aᴴy⟩."""

import numpy as np

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


def random_like(shape, dtype, seed):
    """Standard normal numbers, real or complex."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def inner(a, b, weight=1.0):
    """Re Σ weight · conj(a) · b, summed in float64 (complex numbers count as pairs of reals)."""
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    return float(np.sum(weight * np.conj(np.asarray(a, wide)) * b).real)


def assert_adjoint(forward, adjoint, x, y, weight=1.0):
    """Demand |⟨Ax, y⟩ − ⟨x, Aᴴy⟩| ≤ tolerance · ‖A‖‖x‖‖y‖, the tolerance by the precision of x.

    For ‖A‖‖x‖ stands ‖Ax‖, which is never larger: the demand is the stricter one, and no norm has to be estimated.
    `weight` is that of the inner product on A's side: half-plane samples count twice, but for k = 0.
    """
    image, back = forward(x), adjoint(y)
    assert image.shape == y.shape and back.shape == x.shape
    left, right = inner(image, y, weight), inner(x, back)
    length = np.sqrt(inner(image, image, weight) * inner(y, y, weight))
    assert length > 0
    tolerance = TOLERANCE[np.empty(0, np.asarray(x).dtype).real.dtype]
    assert abs(left - right) <= tolerance * length, f"⟨Ax, y⟩ = {left!r}, ⟨x, Aᴴy⟩ = {right!r}, ‖Ax‖‖y‖ = {length:g}"
