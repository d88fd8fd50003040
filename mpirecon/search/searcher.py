"""Images of a particle file searched in maps: what multiplies them, and what is found as a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.backend.arrays import HOST, Arrays
from mpirecon.errors import UserError
from mpirecon.model.pose import Pose
from mpirecon.model.symmetry import PointGroup
from mpirecon.search.acceptance import Amplitudes, by_evidence, log_evidence, log_odds, widths
from mpirecon.search.pose_search import PoseSearch
from mpirecon.validate.automask import automatic_mask
from mpirecon.validate.masks import soft_sphere

#: half-map FSC down to which shells are used, and in how many shells at least; by groups of images, which hold more
#: together than a map that is made of few of them shows by itself, down to less
SUPPORTED, FEWEST_SHELLS, SUPPORTED_BY_GROUPS = 0.3, 5, 0.143

#: pixels beyond the particle's radius where the mask begins to fall, and over which it falls
_EDGE = 4.0

#: pixels over which a map falls to nothing around its particle, at least
_SOFT = 3.0

#: what is found of an image: contrast and contrast2, the expected amplitude and its square at the best peak
TABLE = np.dtype([
    ("id", "i8"), ("quaternion", "f8", 4), ("shift", "f8", 2), ("odds", "f8"), ("score", "f8"), ("log_evidence", "f8"),
    ("angle_sigma", "f8"), ("shift_sigma", "f8"), ("moved", "f8"), ("contrast", "f8"), ("contrast2", "f8"),
])  # fmt: skip


def finest_shell(fsc: np.ndarray, supported: float = SUPPORTED) -> int:
    """The last shell that half maps agree in well enough for a search, before the first that they do not."""
    return int(np.flatnonzero(np.minimum.accumulate(fsc[1:]) > supported).max(initial=-1)) + 1


def magnification_of(batch, pose: Pose) -> np.ndarray:
    """Of the optics of images that were prepared at these poses, (b, 2, 2): their matrices have rows Mᵀ R for R."""
    return np.einsum("mik,mjk->mji", batch.rotation[:, :2], pose.matrices()[:, :2])


@dataclass(frozen=True)
class Searcher:
    """How images are searched.

    plane : HalfPlane of the samples · pixel_size : Å · noise : (groups, shells), power of each noise group · group :
        PointGroup ·
    diameter : of the particle, pixels · finest : highest shell that tells · offset_sigma : pixels, 0 for known offsets
        ·
    turn_sigma : radians, 0 for all orientations · amplitudes : Amplitudes of well-posed particles · arrays : where
        products of matrices are made · stretch : the most that a magnification of optics lengthens a frequency
    """

    plane: object
    pixel_size: float
    premultiplied: bool
    noise: np.ndarray
    group: PointGroup
    diameter: float
    finest: int
    offset_sigma: float
    turn_sigma: float
    amplitudes: Amplitudes
    arrays: Arrays = HOST
    stretch: float = 1.0

    def mask(self, box: int) -> np.ndarray:
        """Of the particle, in a map of this box, (n, n, n) float32."""
        scale = box / self.plane.box
        return soft_sphere(box, max(min((self.diameter / 2 + _EDGE) * scale, box / 2 - _EDGE), 1.0), _EDGE)

    def focused(self, volume: np.ndarray) -> np.ndarray:
        """A map without the noise about its particle, (n, n, n) float32: where density stands out from the solvent,
        else within `mask`. Images match it by the particle alone, and noise in the map lowers their scores."""
        volume = volume * self.mask(len(volume))
        size = self.pixel_size * self.plane.box / len(volume)
        resolution = self.plane.box * self.pixel_size / self.finest
        try:
            inside = automatic_mask(volume, size, resolution, extend=0.0, edge=max(_SOFT * size, resolution))
        except UserError:  # nothing stands out
            return volume
        return volume * inside.mask

    def search(self, reference: np.ndarray) -> PoseSearch:
        """The search of a map."""
        volume = np.ascontiguousarray(reference, np.float32)
        return PoseSearch(volume, self.plane, self.diameter, self.finest, self.group, self.offset_sigma,
                          self.turn_sigma, self.arrays, self.stretch)

    def weights(self, batch, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What multiplies Re(conj(p) ŷ) and |p|², (b, s) float32; variance : (b,) noise power over that of the
        group."""
        gain = self.plane.multiplicity / self.noise[batch.group][:, self.plane.shell] / np.maximum(variance, 1e-6)[:,
                                                                                                                   None]
        on_cross = gain if self.premultiplied else gain * batch.ctf
        return on_cross.astype(np.float32), (gain * np.square(batch.ctf)).astype(np.float32)

    def table(self, search: PoseSearch, rows: np.ndarray, batch, variance: np.ndarray, given: Pose, progress,
              threads) -> np.ndarray:
        """What is found of the images of a batch, TABLE."""
        peaks = search.search(batch.data, *self.weights(batch, variance), given.quaternion,
                              magnification_of(batch, given), progress, threads)
        turned = np.radians(np.stack([self.group.angular_distance(q, given.quaternion)
                                      for q in peaks.quaternion.swapaxes(0, 1)], axis=1))
        law = self.amplitudes
        order = by_evidence(peaks, law, self.offset_sigma, len(self.group), self.turn_sigma, turned)
        peaks, turned = peaks.ordered(order), np.take_along_axis(turned, order, axis=1)
        evidence, share = log_evidence(peaks, law, self.offset_sigma, len(self.group), self.turn_sigma, turned)
        turn, offset = widths(peaks, law, self.offset_sigma > 0)
        contrast, contrast2 = law.moments(peaks.cross[:, 0], peaks.power[:, 0])
        out = np.empty(len(rows), TABLE)
        columns = {
            "id": rows, "quaternion": peaks.quaternion[:, 0], "shift": given.shift
            + self.pixel_size * peaks.offset[:, 0],
            "odds": log_odds(evidence, share), "score": peaks.score[:, 0], "log_evidence": evidence,
            "angle_sigma": np.degrees(turn),
            "shift_sigma": self.pixel_size * offset, "moved": np.degrees(turned[:, 0]), "contrast": contrast,
            "contrast2": contrast2,
        }  # fmt: skip
        for name, values in columns.items():
            out[name] = values
        return out


@dataclass(frozen=True)
class OtherSearcher:
    """One that searches otherwise; like : Searcher, whose samples, noise, amplitudes and masks are taken."""

    like: Searcher

    @property
    def group(self) -> PointGroup:
        return self.like.group

    def mask(self, box: int) -> np.ndarray:
        return self.like.mask(box)

    def focused(self, volume: np.ndarray) -> np.ndarray:
        return self.like.focused(volume)
