"""Rules by which losses select: what each asks of a run, and what it decides from the particles' statistics.

A run knows a loss by its rule alone: code asks what the rule declares and never compares names. A new rule is a
subclass that ``known_rules.add_rule`` registers; a loss that is a function of the distance needs none of its own
(``losses.register``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mpirecon.parallel.comm import Communicator
from mpirecon.robust.distances import Distance
from mpirecon.robust.losses import Loss
from mpirecon.robust.statistics import Statistics

if TYPE_CHECKING:
    from mpirecon.robust.pose_mixture import PoseMixture
    from mpirecon.robust.selection import Selection
    from mpirecon.robust.small_pose_errors import SmallPoseErrors


@dataclass(frozen=True, eq=False)
class Case:
    """What a rule decides from; arrays over this rank's m particles.

    Attributes
    ----------
    comm : Communicator
    statistics : Statistics
        held out, of images whose sign was inverted where they show the map with inverted contrast
    sigma : (m,) float64
        noise of each image over the typical one's
    ids : (m,) int64
    valid : (m,) bool
        all that may be selected
    credible : (m,) bool
        those of them that do not contradict the map
    distance : Distance
    keep : float, str or None
        ``--keep``
    sort_scope : str
        ``"global"`` or ``"batch"``
    relaxation : float
        0 … 1, how far from its end a graduated schedule is
    mixture : PoseMixture or None
        where it was fitted
    followed : bool
        whether to go by the mixture
    small : SmallPoseErrors or None
        small errors of poses, where they were searched
    """

    comm: Communicator
    statistics: Statistics
    sigma: np.ndarray
    ids: np.ndarray
    valid: np.ndarray
    credible: np.ndarray
    distance: Distance
    keep: float | str | None = None
    sort_scope: str = "global"
    relaxation: float = 0.0
    mixture: PoseMixture | None = None
    followed: bool = False
    small: SmallPoseErrors | None = None


class Rule(ABC):
    """What a loss asks of a run, as attributes, and what it decides.

    Attributes
    ----------
    name : str
    scores : bool
        it weighs particles by their scores:
        they are scored held out, in folds, against maps freed of the noise about the particle
    mixture : bool
        the mixture of correct and wrong poses decides: random poses are scored as well
    searches_nearby : bool
        it uses the best poses near the given ones
    keeps, must_keep : bool
        ``--keep`` applies to it, and must be given
    length : bool
        it needs a distance that is a length, and weighs by it
    squares : bool
        what it minimises are weighted squares of the residual, whatever the distance
    selects : bool
        the kept count alike, and the others not at all
    rounds : int
        iterations of the normal equations that it takes
    how : str
        how particles count that are used, for reports
    """

    name: str
    scores: ClassVar[bool] = True
    mixture: ClassVar[bool] = False
    searches_nearby: ClassVar[bool] = False
    keeps: ClassVar[bool] = False
    must_keep: ClassVar[bool] = False
    length: ClassVar[bool] = False
    squares: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    rounds: ClassVar[int] = 5
    how: ClassVar[str] = "weighted by their distance"

    @abstractmethod
    def decide(self, case: Case) -> Selection:
        """Weights of the case's particles; collective over its communicator."""

    @abstractmethod
    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray,
              given: np.ndarray) -> float:
        """The loss being minimised, per particle that it counts; collective. d : (m,) norms · given : (m,) weights that
        the particles came with"""

    def of_norms(self, centre: float = 0.0, scale: float = 1.0) -> Loss | None:
        """The loss as a function of a norm, for norms around `centre` with spread `scale`; None where it is none."""
        return None

    def declared(self) -> dict:
        """What reports say of a run by, for summary.json."""
        return {name: getattr(self, name) for name in ("scores", "mixture", "keeps", "selects", "how")}
