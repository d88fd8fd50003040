"""Small errors of poses: how the mixture sees them, and what they leave of the signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.parallel.comm import Communicator
from mpirecon.robust.evidence import Evidence, SmallErrors
from mpirecon.robust.mixture_model import SMALL
from mpirecon.robust.nearby import ANGLES, NearbyPoses, between_angles
from mpirecon.robust.particle_noise import median_of
from mpirecon.robust.pose_mixture import PoseMixture
from mpirecon.robust.selection import Attenuation

#: scales of small errors, in units of the angle that a typical image resolves by itself …
SCALES = (2.0, 4.0, 8.0)

#: … and angles, degrees, of larger errors that show at the own pose (some of nearby.ANGLES)
SEEN_ANGLES = (8.0, 16.0, 24.0)

#: angle, radians, that a typical image must resolve for small errors to be looked for: below it, whatever an image
#: holds resembles some other pose nearby
_WIDEST = np.radians(5.0)


@dataclass
class SmallPoseErrors:
    """Small errors of the valid particles' poses: the mixture's view of them, and what they leave of the signal.

    errors : SmallErrors
    angle : (m, kinds) float64, root mean square of the error, radians, where it is of that kind
    profile : (angles, shells)
    """

    errors: SmallErrors
    angle: np.ndarray
    profile: np.ndarray

    @classmethod
    def of(
        cls, comm: Communicator, nearby: NearbyPoses, variance: np.ndarray, overall: np.ndarray, valid: np.ndarray
    ) -> SmallPoseErrors | None:
        """Scales of error are multiples of the angle that a typical image resolves;
        None where no error that it resolves is small.

        overall : (m,) variance for slopes and curvatures, which are sums over bands
        """
        nearby, variance, overall = nearby[valid], variance[valid], overall[valid]
        width = median_of(comm, nearby.width(overall))
        if not width <= _WIDEST:
            return None
        found = [nearby.integral(overall, scale * width) for scale in SCALES]
        log, angle = (np.stack(values, axis=1) for values in zip(*found))
        seen = np.searchsorted(ANGLES, SEEN_ANGLES)
        angle = np.column_stack([angle, *(np.full(len(angle), np.radians(ANGLES[a])) for a in seen)])
        whole = np.concatenate([nearby.sums[:, :, :1], nearby.sums], axis=2)  # Evidence makes nothing of yy
        errors = SmallErrors(Evidence.of(whole, variance), log, nearby.band_profile[seen])
        return cls(errors, angle, nearby.profile)


def attenuation(mixture: PoseMixture, small: SmallPoseErrors, valid: np.ndarray) -> tuple[np.ndarray, Attenuation]:
    """The fraction of each particle's signal that counts, (m,), E[h²] over right poses, for which h = 1, and
    errors of every scale, averaged over shells; and E[s·h(k)] over the same, relative to it."""
    share, first, second = totals = np.zeros((3, len(valid), len(small.profile)))
    found = totals[:, valid]
    for kind in np.flatnonzero(mixture.shares_[SMALL:]):
        contrast, probability = mixture.small_contrast_[kind], mixture.small_[:, kind]
        along = between_angles(small.angle[:, kind])
        for total, of_wrong in zip(found, (1.0, np.maximum(contrast, 0), mixture.small_contrast2_[kind])):
            total += (probability * of_wrong)[:, None] * along
    for total, of_right in zip(found, (1.0, np.maximum(mixture.contrast_, 0), mixture.contrast2_)):
        total[:, 0] += mixture.posterior_ * of_right
    totals[:, valid] = found
    counted = sum(share[:, c] * left for c, left in enumerate(np.square(small.profile).mean(axis=1)))
    for total in (first, second):
        np.divide(total, counted[:, None], out=total, where=counted[:, None] > 0)
    return counted, Attenuation(small.profile, first, second)
