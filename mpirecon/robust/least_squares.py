"""Robust least squares in memory: what the solvers do to maps, for any small linear problem y_i ≈ A_i x.

The same losses, calibrated in the same way; useful to try a loss, and to see that no step raises it.
"""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.select import smallest_k
from mpirecon.robust.known_rules import rule_names, rule_of
from mpirecon.robust.losses import MAD_TO_SIGMA
from mpirecon.robust.schedule import SCHEDULES, loosened, relaxation_at, widened
from mpirecon.robust.selection import keep_count

#: iterations over which a graduated schedule becomes the loss itself
_GRADUATED = 10


class RobustLeastSquares:
    """min Σρ(‖y_i − A_i x‖) by reweighting; with `sorted`, over the k = ⌈keep·m⌉ smallest, by C-steps.

    loss : any that is a function of norms
    keep : fraction that `sorted` keeps
    schedule : "plain", or "graduated": a loss close to L2 that becomes the loss itself over ten iterations
    iterations : at most
    tolerance : stop when a step is shorter than this times x

    ``fit`` sets x_ : (n,) · weight_ : (m,), as x_ was solved with · kept_ : (m,) bool, weight above 0 · centre_, scale_
        :
    typical norm and its spread, on which the loss was calibrated last · keep_ : fraction of weight above 0 · n_iter_ : int
    ·
    objective_ : (n_iter_, 2), the loss before and after each step, as that step was calibrated: the second is never
        larger
    (M-estimators: ρ is concave in d², Holland & Welsch 1977; C-steps: Rousseeuw & Van Driessen 1999, Technometrics
    41:212).
    """

    def __init__(
        self, loss: str = "l1", keep: float | None = None, schedule: str = "plain", iterations: int = 100,
        tolerance: float = 1e-9,
    ) -> None:
        able = [name for name in rule_names() if rule_of(name).of_norms() is not None]
        if loss not in able:
            raise UserError(f"loss {loss!r}: choose one of {', '.join(able)}")
        self.rule = rule_of(loss)
        if self.rule.must_keep != (keep is not None) or (keep is not None and not 0 < keep <= 1):
            trimmed = " and ".join(name for name in able if rule_of(name).must_keep)
            raise UserError(f"loss {loss!r} with keep {keep}: {trimmed} needs the fraction to keep, above 0 and at "
                            f"most 1; other losses take none")
        if schedule not in SCHEDULES:
            raise UserError(f"schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
        self.loss, self.keep, self.schedule = loss, keep, schedule
        self.iterations, self.tolerance = iterations, tolerance

    def fit(self, design: np.ndarray, observed: np.ndarray) -> RobustLeastSquares:
        """design : (m, k, n) float, the A_i · observed : (m, k) float, the y_i. UserError where the shapes do not
        fit."""
        a, y = np.asarray(design, np.float64), np.asarray(observed, np.float64)
        if a.ndim != 3 or y.shape != a.shape[:2] or not len(y) or not (np.isfinite(a).all() and np.isfinite(y).all()):
            raise UserError(f"expected finite A of shape (m, k, n) and y of shape (m, k) with m ≥ 1, got {a.shape} and "
                            f"{y.shape}")
        self.x_, history = _solve(a, y, np.ones(len(y))), []
        start = 1 if self.schedule == "graduated" else _GRADUATED
        for self.n_iter_ in range(1, self.iterations + 1):
            relaxation = relaxation_at(min(start, _GRADUATED), _GRADUATED)
            before = np.linalg.norm(y - a @ self.x_, axis=1)
            objective, self.weight_ = self._weigh(before, relaxation)
            x = _solve(a, y, self.weight_)
            step, self.x_ = np.linalg.norm(x - self.x_), x
            history.append((objective(before), objective(np.linalg.norm(y - a @ x, axis=1))))
            if relaxation == 0 and step <= self.tolerance * max(np.linalg.norm(x), 1e-300):
                break
            start += 1
        self.objective_ = np.array(history)
        self.kept_ = self.weight_ > 0
        self.keep_ = float(self.kept_.mean())
        return self

    def average(self, points: np.ndarray) -> np.ndarray:
        """The point (d,) that the loss finds among points (m, d): L2's is their mean, L1's their geometric median."""
        points = np.asarray(points, np.float64)
        m, d = points.shape
        return self.fit(np.broadcast_to(np.eye(d), (m, d, d)), points).x_

    def _weigh(self, d: np.ndarray, relaxation: float):
        """What a step minimises, as a function of norms, and the weights (m,) that do it."""
        self.centre_ = float(np.median(d))
        self.scale_ = float(widened(MAD_TO_SIGMA * np.median(np.abs(d - self.centre_)), relaxation))
        loss = self.rule.of_norms(self.centre_, self.scale_)
        if not self.rule.must_keep:
            return lambda norms: float(loss.rho(norms).sum()), loss.weight(d)
        k = keep_count(loosened(self.keep, relaxation), len(d))
        kept = smallest_k(SerialCommunicator(), d, np.arange(len(d)), k)
        return lambda norms: float(loss.rho(np.sort(norms)[:k]).sum()), kept.astype(np.float64)


def _solve(a: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The x of least Σ w ‖y_i − A_i x‖²; the shortest where there are many."""
    root = np.sqrt(weight)
    x, *_ = np.linalg.lstsq((root[:, None, None] * a).reshape(-1, a.shape[2]), (root[:, None] * y).ravel(), rcond=None)
    return x
