"""The losses that an iteration reports, in units of what a map of nothing would leave."""

from __future__ import annotations

import numpy as np

from mpirecon.parallel.comm import Communicator
from mpirecon.robust.distances import WHITENED, Distance
from mpirecon.robust.known_rules import loss_value, norms, rule_of
from mpirecon.robust.rules import Rule
from mpirecon.robust.selection import Selection
from mpirecon.robust.statistics import Statistics


def reported_losses(
    comm: Communicator, loss: str | Rule, distance: Distance, chosen: Selection, inside: Statistics,
    held_out: Statistics, valid: np.ndarray, given: np.ndarray | None = None,
) -> dict[str, float]:
    """``loss``, ``loss_l2``, ``loss_heldout`` and ``loss_l2_heldout`` of the maps of an iteration; collective.

    Each is the loss over all particles that it counts, divided by what it would be for a map of zeros, weights and
    calibration being the same: 1 says that the map explains nothing, whatever the loss, the units of the images and
    their noise. ``loss_of_nothing`` and ``loss_l2_of_nothing`` are the divisors, per particle and Fourier sample; times
    them, the losses are in the units of the residual.

    Parameters
    ----------
    chosen : the selection that built the maps
    inside, held_out : statistics of the m particles of this rank against the maps of their half, and against maps that
        they did not build
    valid : (m,) bool
    given : (m,) weights that the particles were given, which ``loss`` counts by, and the regular L2 loss does not
    """
    distance = distance if distance.norm is not None else WHITENED  # what is no length is reported by its residual
    turned = chosen.contrast < 0
    squared = rule_of(loss).squares

    def of(statistics: Statistics) -> float:
        statistics = statistics.inverted(turned)
        d = _root(statistics.residual) if squared else norms(comm, distance, statistics, valid)
        return loss_value(comm, loss, d, chosen, valid, given)

    def of_l2(statistics: Statistics) -> float:
        return loss_value(comm, "l2", _root(statistics.residual), Selection.of_all(valid), valid)

    nothing = inside.of_nothing()
    unit, unit_l2 = of(nothing), of_l2(nothing)
    return {
        "loss": _over(of(inside), unit), "loss_l2": _over(of_l2(inside), unit_l2),
        "loss_heldout": _over(of(held_out), unit), "loss_l2_heldout": _over(of_l2(held_out), unit_l2),
        "loss_of_nothing": unit, "loss_l2_of_nothing": unit_l2,
    }  # fmt: skip


def _over(value: float, unit: float) -> float:
    """The share; 1 where there is nothing to explain."""
    return value / unit if unit != 0 else 1.0


def _root(squared: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squared, 0))
