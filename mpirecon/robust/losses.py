"""The losses that weigh by a function of the norm, by name, and those that scripts give and add.

A run is given a loss by its name, as a function, or as a class; what it makes a Loss of, for norms around a centre with
a spread, is found once, as the run is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kinds import Positive, checked
from mpirecon.robust.loss_classes import (
    CAUCHY_TUNING,
    GEMAN_MCCLURE_TUNING,
    HUBER_TUNING,
    L1,
    L2,
    MAD_TO_SIGMA,
    REDESCENDING,
    TUKEY_TUNING,
    WELSCH_TUNING,
    Cauchy,
    GemanMcClure,
    Huber,
    Loss,
    Redescending,
    Tukey,
    Welsch,
)
from mpirecon.robust.own_code import digest_of_code
from mpirecon.robust.returned import checked_weights, refuse_name, refuse_uncalled

__all__ = [
    "CAUCHY_TUNING", "GEMAN_MCCLURE_TUNING", "HUBER_TUNING", "L1", "L2", "LOSSES", "MAD_TO_SIGMA", "M_ESTIMATORS",
    "REDESCENDING", "TUKEY_TUNING", "WELSCH_TUNING", "Calibrated", "Cauchy", "FunctionLoss", "GemanMcClure",
    "Huber", "Loss", "Redescending", "Tukey", "Welsch", "calibrated", "is_m_estimator", "loss_names", "make_loss",
    "maker_of", "of_excess", "own_digest", "own_maker", "register", "reserve",
]  # fmt: skip

#: makes a loss of the centre and the spread of norms
Maker = Callable[[float, float], Loss]

#: losses that weigh by a function of d: name → what makes one for norms around a centre with a spread;
#: scripts add theirs
_MAKERS: dict[str, Maker] = {
    "l1": lambda centre, scale: L1(epsilon=max(1e-6 * centre, 1e-300)),
    "huber": lambda centre, scale: Huber(delta=centre + HUBER_TUNING * scale),
    # where all are alike there is no spread: what differs at all is far
    **{name: lambda centre, scale, kind=kind, tuning=tuning: kind(centre, max(tuning * scale, 1e-9 * centre, 1e-100))
       for name, (kind, tuning) in REDESCENDING.items()},
}  # fmt: skip
M_ESTIMATORS = tuple(_MAKERS)

_OWN: dict[str, str] = {}  # digests of those that scripts have added, of what they do
#: losses of ``reconstruct``; those without a weight function of d alone are rules of their own, see known_rules.py
LOSSES = ("l2", "sorted", *M_ESTIMATORS, "posterior")

#: the classes of built-in losses → their names: as a loss, the class is what its name is
BUILT_IN = {L2: "l2", L1: "l1", Huber: "huber", **{kind: name for name, (kind, _) in REDESCENDING.items()}}

_RESERVED: set[str] = set()  # names of rules that scripts have added

#: norms between which the integral of a plain weight function is tabulated
_STEPS = 4096


class FunctionLoss(Loss):
    """A loss given by its weights alone; ρ(d) = ∫₀ᵈ t·w(t) dt, by the trapezoidal rule.

    Parameters
    ----------
    function : callable
        (m,) float64 norms → (m,) weights, finite and not negative
    name : str
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], name: str = "function") -> None:
        self.function, self.name = function, name

    def weight(self, d: np.ndarray) -> np.ndarray:
        """Weights of norms (m,); UserError where the function returns something else than finite weights."""
        d = np.asarray(d, np.float64)
        return checked_weights(self.name, self.function(d.copy()), d)  # a function may write into its argument

    def rho(self, d: np.ndarray) -> np.ndarray:
        d = np.asarray(d, np.float64)
        if not d.size:
            return np.zeros(0)
        t = np.linspace(0, max(float(d.max()), np.finfo(float).tiny), _STEPS)
        # from the middles of the steps: a weight such as 1/d has no value at 0
        middle = (t[1:] + t[:-1]) / 2
        total = np.concatenate([[0.0], np.cumsum(middle * self.weight(middle) * np.diff(t))])
        return np.interp(d, t, total)


@checked
def register(name: str, loss) -> str:
    """Add a loss under a name, by which ``reconstruct`` then knows it; in place of another of one's own of that name,
    which runs that were made before keep.

    Parameters
    ----------
    name : str
    loss : callable
        Either a function of the norms alone, (m,) → (m,) weights, or a subclass of Loss (or anything marked by
        ``calibrated``) that is called with the centre and the spread of the norms and returns a Loss.

    Returns
    -------
    str
        the name

    Raises
    ------
    UserError
        for the name of a built-in loss or of a rule, an empty one, something that cannot be called, or a class without
        ``weight`` or ``rho``.
    """
    refuse_name("loss", name)
    if name in LOSSES:
        raise UserError(f"loss {name}: a built-in loss has this name; choose another")
    if name in _RESERVED:
        raise UserError(f"loss {name}: a rule that was added has this name, and would be used in its place; choose "
                        "another")
    _MAKERS[name] = own_maker(name, loss)
    _OWN[name] = digest_of_code(loss)  # now: it may keep count of something while it is called
    return name


def reserve(name: str) -> None:
    """Keep a name for a rule; UserError where a loss has it."""
    if name in loss_names():
        raise UserError(f"loss {name}: there is one of this name already; choose another")
    _RESERVED.add(name)


def own_maker(name: str, loss) -> Maker:
    """What makes a Loss for a centre and a spread, of a loss that a script gave; UserError where that is none."""
    if isinstance(loss, type) and loss in BUILT_IN:
        # their own parameters are not the centre and the spread
        return (lambda centre, scale: L2()) if loss is L2 else _MAKERS[BUILT_IN[loss]]
    if not callable(loss):
        raise UserError(f"loss {name}: expected a function of norms or a class of losses, got {type(loss).__name__}")
    if loss is FunctionLoss:
        raise UserError(f"loss {name}: FunctionLoss is made of a function of the distances; give that function itself")
    if isinstance(loss, type) and (missing := sorted(getattr(loss, "__abstractmethods__", ()))):
        raise UserError(f"loss {name}: the class has no {' and no '.join(missing)}, which losses have")
    if isinstance(loss, Calibrated) or (isinstance(loss, type) and issubclass(loss, Loss)):
        refuse_uncalled(name, loss)
        return _returning_losses(name, loss)
    return lambda centre, scale: FunctionLoss(loss, name)


def _returning_losses(name: str, make: Maker) -> Maker:
    def made(centre: float, scale: float) -> Loss:
        loss = make(centre, scale)
        if not isinstance(loss, Loss):
            raise UserError(f"loss {name}: expected a Loss for this centre and scale, got {type(loss).__name__}")
        return loss

    return made


@dataclass(frozen=True)
class Calibrated:
    """A function that makes a Loss of the norms' centre and spread; see `calibrated`."""

    function: Callable[[float, float], Loss]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, centre: float, scale: float) -> Loss:
        return self.function(centre, scale)


def calibrated(function: Callable[[float, float], Loss]) -> Calibrated:
    """Mark a function (centre, scale) → Loss as one to be called again whenever the norms have changed."""
    return Calibrated(function)


@checked
def of_excess(weight: Callable[[np.ndarray], np.ndarray], tuning: Positive = 1.0) -> Calibrated:
    """A loss that weighs by the excess over the typical norm, in robust standard deviations, as textbooks have it.

    Parameters
    ----------
    weight : callable
        W(u), 1 at u = 0, of u = max(d − centre, 0) / (tuning · scale)
    tuning : float
        standard deviations (1.4826 · MAD) that are one unit of u
    """

    def make(centre: float, scale: float) -> Loss:
        c = max(tuning * scale, 1e-9 * centre, 1e-100)
        return FunctionLoss(lambda d: weight(np.maximum(d - centre, 0) / c), make.__name__)

    make.__name__ = getattr(weight, "__name__", "of_excess")
    return Calibrated(make)


def loss_names() -> tuple[str, ...]:
    """Names of all losses, those that were added last."""
    return tuple(dict.fromkeys((*LOSSES, *_MAKERS)))


def is_m_estimator(name: str) -> bool:
    """Whether the loss of that name weighs by a function of the norm."""
    return name in _MAKERS


def own_digest(name: str) -> str | None:
    """A digest of what a loss does that a script added; None of a built-in one."""
    return _OWN.get(name)


def maker_of(name: str) -> Maker:
    """What makes the M-estimator of that name for norms around a centre with a spread; UserError where none is."""
    if name not in _MAKERS:
        raise UserError(f"unknown loss {name!r}; choose one of {', '.join(loss_names())}")
    return _MAKERS[name]


def make_loss(name: str, centre: float, scale: float) -> Loss:
    """The M-estimator of that name for norms around `centre` with spread `scale` (1.4826 · MAD).

    Huber's δ is centre + 1.345 · scale, so that what lies within the bulk keeps its weight,
    as it does with the redescending losses.
    """
    return maker_of(name)(centre, scale)
