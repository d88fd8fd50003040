"""The geometric median by Weiszfeld's iteration: the smallest example of what ``--loss l1`` does to maps.

The L2 average of points is their mean; the L1 average is their median, which an outlier cannot drag away.
"""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kinds import Natural, NonNegative, checked
from mpirecon.model.devices import numbers_of


@checked
def weiszfeld(points, weights=None, tolerance: NonNegative = 1e-10, iterations: Natural = 1000) -> np.ndarray:
    """The geometric median: the point x that minimises Σ w_i ‖x − p_i‖.

    Parameters
    ----------
    points : (m, d) or (m,) float
    weights : (m,) float, optional
        not negative; all 1 by default
    tolerance : float
        stop when a step is shorter than this times the points' spread
    iterations : int
        maximum number of steps

    Returns
    -------
    (d,) float64, or a float64 scalar array for (m,) points, whose median it is

    Notes
    -----
    x ← Σ w y / Σ w with w = 1/d (Weiszfeld 1937), with the step of Vardi & Zhang (2000, PNAS 97:1423) if x coincides
    with a point, where 1/d is infinite.
    """
    p = numbers_of(points, "weiszfeld: points")
    flat = p.ndim == 1
    p = p[:, None] if flat else p
    if p.ndim != 2 or len(p) == 0 or not np.isfinite(p).all():
        raise UserError(f"weiszfeld: expected finite points of shape (m, d) with m ≥ 1, got {np.shape(points)}")
    a = np.ones(len(p)) if weights is None else numbers_of(weights, "weiszfeld: weights")
    if a.shape != (len(p),) or not (a >= 0).all() or not 0 < a.sum() < np.inf:
        raise UserError(f"weiszfeld: expected {len(p)} finite, non-negative weights, not all zero")
    x = np.average(p, axis=0, weights=a)
    spread = np.abs(p - x).max()
    for _ in range(iterations):
        step = _vardi_zhang(p, a, x, 1e-12 * spread)
        x = x + step
        if np.linalg.norm(step) <= tolerance * spread:
            break
    return x[0] if flat else x


def _vardi_zhang(p: np.ndarray, a: np.ndarray, x: np.ndarray, coincide: float) -> np.ndarray:
    distance = np.linalg.norm(p - x, axis=1)
    away = distance > coincide
    w = a[away] / distance[away]
    if not w.size:
        return np.zeros_like(x)
    pull = w @ (p[away] - x)
    here = a[~away].sum()  # the weight of points that x sits on holds it back
    force = np.linalg.norm(pull)
    hold = 0.0 if here == 0 else max(0.0, 1 - here / force) if force > 0 else 0.0
    return pull / w.sum() * (1.0 if here == 0 else hold)
