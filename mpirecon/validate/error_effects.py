"""What planted errors did to the map, as far as it follows from the truth, the weights and the half sets."""

from __future__ import annotations

import numpy as np

from mpirecon.validate.detection import planted_kinds


def with_effects(rows: list[dict], columns: dict[str, np.ndarray], resolution: float, wavelength: float) -> list[dict]:
    """The rows of detection.by_kind with what each kind did to the map.

    Adds ``weight``, the fraction of the map's weight that its particles have, ``amplitude`` for offsets and defocus:
    the factor by which errors of all particles left the map's signal at `resolution`, and for duplicates ``pairs`` that
    have weight in both halves and ``shared_noise``: the correlation of the half maps' noise that they bring.

    Parameters
    ----------
    columns : of a run's particles.h5
    resolution : float, Å, at which amplitudes are reported
    wavelength : float, Å, of the electrons

    Notes
    -----
    The transform of a particle whose offset is wrong by δ is turned by exp(2πi k·δ), in all directions J0(2π k |δ|) on
    average. Where the defocus is wrong by Δ, the CTFs' product is cos(π λ k² Δ) of their square's, averaged over their
    oscillations. Particles count by their weights;
    a term of noise that both half maps hold correlates them by Σ w₁w₂ / √(Σw₁² Σw₂²).
    """
    weight = np.where(np.isfinite(columns["weight"]), columns["weight"], 0.0)
    total = max(float(weight.sum()), 1e-300)
    k = 1.0 / resolution

    def of_offsets() -> np.ndarray:
        from scipy.special import j0  # slow to load

        return j0(2 * np.pi * k * columns.get("final_offset_error", columns["offset_error"]))

    amplitudes = {
        "offset": of_offsets,
        "defocus": lambda: np.cos(np.pi * wavelength * k**2 * columns["defocus_error"]),
    }
    kinds, out = planted_kinds(columns), []
    for row in rows:
        kind = row["kind"]
        found = {"weight": float(weight[kinds[kind]].sum() / total), "amplitude": None}
        if kind in amplitudes:
            found["amplitude"] = float((weight * amplitudes[kind]()).sum() / total)
        if kind == "duplicate":
            found |= _shared_noise(columns, weight)
        out.append(row | found)
    return out


def _shared_noise(columns: dict[str, np.ndarray], weight: np.ndarray) -> dict:
    copy = np.flatnonzero(columns["duplicate_of"] >= 0)
    original = np.searchsorted(columns["id"], columns["duplicate_of"][copy])
    across = columns["half"][copy] != columns["half"][original]
    product = weight[copy] * weight[original] * across
    power = [float((weight[columns["half"] == half] ** 2).sum()) for half in (1, 2)]
    both = np.sqrt(power[0] * power[1])
    return {"pairs": int((product > 0).sum()), "shared_noise": float(product.sum() / both) if both > 0 else None}
