"""Which views a set has before and after particles were left out."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from mpirecon.io.atomic import atomic_path
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.model.symmetry import PointGroup
from mpirecon.validate.selection_bias import once

#: views are distinguished in at most so many bins of equal area on the half sphere (about 10° across) …
MOST_BINS = 192

#: … and fewer when there would be less than this many particles in each
_PER_BIN = 20

#: particles in each view, on average, where its fraction of correct ones is estimated
_TOLD_BY = 60

#: a view is thinned when fewer than this fraction of the particles expected to remain did remain …
THINNED = 0.5

#: … and chance would do that to one view in a thousand runs
_CHANCE = 1e-3

#: fraction of the half sphere whose thinning is worth a warning
LARGEST_THINNED = 0.01


#: cosine of the angle around the worst view within which the place of the thinned views is reported
_AROUND = np.cos(np.radians(35))


@dataclass(frozen=True)
class Coverage:
    """Views before and after selection.

    before, after : (bins,) int64, particles in each; of a symmetric one all copies of each particle
    thinned : (bins,) bool, far fewer kept than elsewhere
    there : particles before and after whose view, or a copy of it, is thinned
    direction : (bins, 3) float64, the bins' centres
    edges : of the bins, as view_bins gives them
    given, found : (bins,) int64, where poses were searched: all particles at their given poses, and those kept at found
        ones
    """

    before: np.ndarray
    after: np.ndarray
    thinned: np.ndarray
    there: tuple[int, int]
    direction: np.ndarray
    edges: tuple[np.ndarray, np.ndarray]
    given: np.ndarray | None = None
    found: np.ndarray | None = None

    def as_dict(self) -> dict:
        """Numbers for summary.json. Evenness is the effective number of views (e to the entropy) over the bins."""
        return {
            "bins": len(self.before),
            "empty_before": int((self.before == 0).sum()),
            "empty_after": int((self.after == 0).sum()),
            "evenness_before": evenness(self.before),
            "evenness_after": evenness(self.after),
            "thinned": int(self.thinned.sum()),
            "thinned_share": float(self.thinned.mean()),
        }

    def warning(self) -> str | None:
        """What to say when trimming emptied a region of views; None when it did not."""
        if self.thinned.mean() <= LARGEST_THINNED:
            return None
        lost = self.thinned
        worst = self.direction[np.argmax(np.where(lost, self.before - self.after, -1))]
        # a symmetric particle has such views in several places
        lost = lost & (np.abs(self.direction @ worst) > _AROUND)
        axis = np.linalg.eigh((self.direction[lost].T * self.before[lost]) @ self.direction[lost])[1][:, -1]
        axis = axis if axis[2] >= 0 else -axis
        tilt, rot = np.degrees(np.arccos(np.clip(axis[2], -1, 1))), np.degrees(np.arctan2(axis[1], axis[0]))
        return (
            f"selection thinned out {100 * self.thinned.mean():.0f} % of the views: of {self.there[0]} particles there "
            f"{self.there[1]} were kept, less than half of the overall fraction, mostly around rot {rot:.0f}°, tilt "
            f"{tilt:.0f}°. The map may be worse along them; compare it with --loss l2"
        )


def view_bins(count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` bins of exactly equal area on the half sphere z ≥ 0, in rings about the pole.

    Returns
    -------
    top : (rings,) float64, z of the upper edge of each ring, from 1 down
    cells : (rings,) int64, bins of each ring
    """
    step = np.sqrt(2 * np.pi / count)
    rings = max(1, round(np.pi / 2 / step))
    middle = (np.arange(rings) + 0.5) * np.pi / 2 / rings
    cells = np.maximum(1, np.rint(count * np.sin(middle) / np.sin(middle).sum())).astype(np.int64)
    # edges follow from the counts, so that every bin has the same area
    return 1 - np.concatenate([[0], np.cumsum(cells)[:-1]]) / cells.sum(), cells


def bin_of(direction: np.ndarray, top: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Bin of each (m, 3) unit vector; opposite ones share theirs, their images being mirror images. (m,) int64."""
    v = np.where(direction[:, 2:] < 0, -direction, direction)
    ring = np.clip(np.searchsorted(-top, -v[:, 2], side="right") - 1, 0, len(top) - 1)
    turn = np.arctan2(v[:, 1], v[:, 0]) / (2 * np.pi) % 1.0
    within = np.minimum((turn * cells[ring]).astype(np.int64), cells[ring] - 1)
    return np.concatenate([[0], np.cumsum(cells)[:-1]])[ring] + within


def views_of(quaternion: np.ndarray, total: int, symmetry: PointGroup | None = None) -> np.ndarray:
    """Number of the view of each pose (m, 4), among a set of `total` particles, (m,) int64; the same for all copies of
    a symmetric particle's."""
    copies = np.eye(3)[None] if symmetry is None else symmetry.matrices
    top, cells = view_bins(int(np.clip(total * len(copies) // _TOLD_BY, 6, MOST_BINS)))
    direction = matrix_from_quaternion(quaternion)[:, 2]
    return np.min([bin_of(direction @ g.T, top, cells) for g in copies], axis=0)


def bin_centres(top: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Unit vectors to the middles of the bins, (bins, 3) float64."""
    bottom = np.append(top[1:], 0.0)
    z = np.repeat((top + bottom) / 2, cells)
    angle = 2 * np.pi * np.concatenate([(np.arange(c) + 0.5) / c for c in cells])
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def view_coverage(
    quaternion: np.ndarray, kept: np.ndarray, together: np.ndarray | None = None, symmetry: PointGroup | None = None,
    given: np.ndarray | None = None, moved: np.ndarray | None = None,
) -> Coverage:
    """Coverage of particles with poses (m, 4) of which some were `kept`, (m,) bool.

    A view that had n particles is thinned when its kept count is below half of n · (share kept overall), and a binomial
    draw of n at that fraction gives so few with a probability below 0.001 over all views together. Rows that are kept
    or left out group by group (`together`, (m,)) count once in each view. A particle of some `symmetry` shows each of
    the group's copies of its view; it counts at all of them, and in the test once in each bin. Where some were `moved`,
    (m,) bool, from `given` poses, (m, 4), views are counted there as well.
    """
    copies = np.eye(3)[None] if symmetry is None else symmetry.matrices
    top, cells = view_bins(int(np.clip(len(kept) * len(copies) // _PER_BIN, 6, MOST_BINS)))
    direction = matrix_from_quaternion(quaternion)[:, 2]
    where = np.stack([bin_of(direction @ g.T, top, cells).astype(np.uint8) for g in copies])  # R gᵀ shows g · direction
    if together is None:
        before, after = (_counts(where[:, rows], cells.sum()) for rows in (slice(None), kept))
        where.sort(axis=0)
        first = np.ones(where.shape, bool)
        first[1:] = where[1:] != where[:-1]
        drawn, remained = (np.bincount(where[:, rows][first[:, rows]], minlength=cells.sum())
                           for rows in (slice(None), kept))
    else:
        seen, of_those = once(where.ravel(), np.tile(kept, len(copies)), np.tile(together, len(copies)))
        drawn, remained = (np.bincount(seen[rows], minlength=cells.sum()) for rows in (slice(None), of_those))
        before, after = drawn, remained
    share = kept.mean() if len(kept) else 1.0
    thinned = remained < THINNED * share * drawn
    if thinned.any():
        from scipy.special import bdtr  # slow to load; scipy.stats takes half a second more

        thinned &= bdtr(remained, drawn, share) < _CHANCE / len(drawn)
    inside = thinned[where].any(axis=0)
    there = int(inside.sum()), int((inside & kept).sum())
    if moved is None or not moved.any():
        return Coverage(before, after, thinned, there, bin_centres(top, cells), (top, cells))
    first = matrix_from_quaternion(given)[:, 2]
    at_given = _counts(np.stack([bin_of(first @ g.T, top, cells) for g in copies]), cells.sum())
    return Coverage(before, after, thinned, there, bin_centres(top, cells), (top, cells), at_given,
                    _counts(where[:, kept & moved], cells.sum()))


def _counts(where: np.ndarray, bins: int) -> np.ndarray:
    return np.sum([np.bincount(copy, minlength=bins) for copy in where], axis=0)


def write_views_csv(path, coverage: Coverage) -> None:
    """One row a view: ``tilt_low … rot_high`` (degrees, of the bin on the half sphere), ``before``,
    ``after``, ``thinned``."""
    top, cells = coverage.edges
    tilt = np.degrees(np.arccos(np.clip(np.append(top, 0.0), -1, 1)))
    with atomic_path(path, overwrite=True) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        columns = {"before": coverage.before, "after": coverage.after, "thinned": coverage.thinned.astype(int)}
        if coverage.found is not None:
            columns |= {"given": coverage.given, "found": coverage.found}
        table.writerow(["tilt_low", "tilt_high", "rot_low", "rot_high", *columns])
        counts = zip(*(column.tolist() for column in columns.values()))
        for ring, many in enumerate(cells.tolist()):
            for cell in range(many):
                rot = (360 * cell / many, 360 * (cell + 1) / many)
                table.writerow([*(f"{a:.4g}" for a in (tilt[ring], tilt[ring + 1], *rot)), *next(counts)])


def evenness(counts: np.ndarray) -> float:
    """e to the entropy of the counts over their number, 0 … 1: 1 when all views are seen alike."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(p * np.log(p)).sum()) / len(counts)) if len(p) else 0.0


#: degrees around a view, the fewest found poses there, and how many times as many as of the others, that are a pile
_CAP, _FEWEST_PILED, _PILE = 15.0, 10, 4.0

#: views that are compared, at most
_VIEWS = 2000


def pile_up(found: np.ndarray, others: np.ndarray, group: np.ndarray) -> str | None:
    """A warning where found poses come from few views that the others do not come from: there the map attracts noise.

    found, others : (·, 3) viewing directions in the map's frame
    group : (order, 3, 3) rotations of the point group
    """
    found, others = (views[:: max(1, len(views) // _VIEWS)] for views in (found, others))
    if len(found) < _FEWEST_PILED or not len(others):
        return None
    near = np.cos(np.radians(_CAP))
    here, there = (sum(((found @ g.T @ views.T) > near).sum(axis=1) for g in group) for views in (found, others))
    expected = len(found) * (there + 1) / (len(others) + 1)
    worst = int(np.argmax(here / expected))
    if here[worst] < _FEWEST_PILED or here[worst] < _PILE * expected[worst]:
        return None
    return (f"{here[worst]} of {len(found)} found poses view the particle within {_CAP:g}° of one direction, where "
            f"{expected[worst]:.0f} would be expected of the kept ones' views: the map may attract noise there. "
            "Inspect these particles before using their poses")
