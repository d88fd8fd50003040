"""How well the planted errors were found, where the truth is known."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from mpirecon.io.atomic import atomic_path

#: edges of the bins of angular error, degrees
ANGLES = (0, 2, 5, 10, 20, 45, 180)

#: points of the curves that are written; their areas are taken of all
_POINTS = 1000


def auc(distance: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a wrong particle lies further than a right one, ties half.

    distance : (m,) float · wrong : (m,) bool · NaN when all particles are of one kind. Mann & Whitney 1947.
    """
    bad = int(wrong.sum())
    good = len(wrong) - bad
    if not bad or not good:
        return float("nan")
    # average ranks of ties, as scipy.stats.rankdata gives them; that takes half a second to load
    _, inverse, count = np.unique(distance, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[inverse]
    return float((ranks[wrong].sum() - bad * (bad + 1) / 2) / (bad * good))


@dataclass(frozen=True)
class DetectionCurves:
    """What leaving out all particles beyond a threshold would find, for every threshold that makes a difference.

    threshold : (k,) float64, particles at this distance or further are left out; the first is infinite, nobody ·
    left_out : (k,) int64 · recall : (k,) share of the wrong that is left out · false_positive_rate : (k,) share of the
    right that is · precision : (k,) share of the left out that is wrong (1 for nobody) · f1 : (k,)
    """

    threshold: np.ndarray
    left_out: np.ndarray
    recall: np.ndarray
    false_positive_rate: np.ndarray
    precision: np.ndarray
    f1: np.ndarray

    @classmethod
    def of(cls, distance: np.ndarray, wrong: np.ndarray) -> DetectionCurves:
        """From all particles' distances and flags, (m,); particles of one distance are left out together."""
        order = np.argsort(-distance, kind="stable")
        far, flags = np.asarray(distance, np.float64)[order], np.asarray(wrong, bool)[order]
        last = np.flatnonzero(np.append(far[1:] != far[:-1], len(far) > 0))
        hits = np.concatenate([[0], np.cumsum(flags)[last]])
        left_out = np.concatenate([[0], last + 1])
        bad, good = int(flags.sum()), int((~flags).sum())
        return cls(
            np.concatenate([[np.inf], far[last]]),
            left_out,
            hits / max(bad, 1),
            (left_out - hits) / max(good, 1),
            np.divide(hits, left_out, out=np.ones(len(hits)), where=left_out > 0),
            2 * hits / np.maximum(left_out + bad, 1),
        )

    @property
    def average_precision(self) -> float:
        """Area under the precision-recall curve by steps: the mean precision over the recall that each step gains."""
        return float((np.diff(self.recall) * self.precision[1:]).sum())

    @property
    def best(self) -> int:
        """The point of the largest F1."""
        return int(np.argmax(self.f1))

    def thinned(self) -> DetectionCurves:
        """At most about a thousand of the points, evenly along both curves, ends and best one among them."""
        k = len(self.threshold)
        if k <= _POINTS:
            return self
        # length along the ROC curve: a good score puts everything that matters into a corner of it
        along = self.recall + self.false_positive_rate
        even = np.searchsorted(along, np.linspace(0, along[-1], _POINTS - 1))
        some = np.unique(np.concatenate([np.minimum(even, k - 1), [0, self.best, k - 1]]))
        return DetectionCurves(*(getattr(self, name)[some] for name in self.__dataclass_fields__))


def write_detection_csv(path, curves: DetectionCurves) -> None:
    """One row a threshold, the columns of DetectionCurves; atomic. Replaces an earlier one."""
    names = list(curves.__dataclass_fields__)
    with atomic_path(path, overwrite=True) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        for row in zip(*(getattr(curves, name) for name in names)):
            table.writerow([f"{value:.7g}" for value in row])


def detection(distance: np.ndarray, discarded: np.ndarray, wrong: np.ndarray) -> dict:
    """AUC of the distance, and precision, recall and F1 of the discarded as a find of the wrong.

    Also ``wrong``, ``kept``, ``wrong_among_kept`` (counts) and ``wrong_share_of_kept``. Shares are None where they
    would divide by zero.
    """
    hits = int((discarded & wrong).sum())
    thrown, bad, kept = int(discarded.sum()), int(wrong.sum()), int((~discarded).sum())
    precision = hits / thrown if thrown else None
    recall = hits / bad if bad else None
    area = auc(distance, wrong)
    return {
        "auc": None if np.isnan(area) else area,
        "f1": 2 * hits / (thrown + bad) if thrown + bad else None,
        "precision": precision,
        "recall": recall,
        "wrong": bad,
        "kept": kept,
        "wrong_among_kept": bad - hits,
        "wrong_share_of_kept": (bad - hits) / kept if kept else None,
    }


def confusion(
    distance: np.ndarray, kept: np.ndarray, posterior: np.ndarray, wrong: np.ndarray, angle: np.ndarray | None = None,
    junk: np.ndarray | None = None,
) -> list[dict]:
    """How particles of each kind fared: the right, the wrong by angular error, junk.

    Parameters
    ----------
    posterior : (m,) float, NaN where the loss knows none
    angle : (m,) degrees between given and true pose; left out, all wrong poses are one kind
    junk : (m,) bool, images without a particle; left out, nobody knows

    Returns
    -------
    list of dict
        ``kind`` (right, wrong or junk), ``degrees`` [from, to] or None, ``count``, ``kept``, ``mean_posterior`` and
        ``auc`` against the right ones (None where undefined); kinds without particles are left out.
    """
    junk = np.zeros(len(wrong), bool) if junk is None else junk
    posed = wrong & ~junk
    kinds = [("right", None, ~wrong)]
    if angle is None:
        kinds.append(("wrong", None, posed))
    else:
        bins = np.digitize(angle, ANGLES[1:-1])
        kinds += [("wrong", list(ANGLES[b : b + 2]), posed & (bins == b)) for b in range(len(ANGLES) - 1)]
    kinds.append(("junk", None, wrong & junk))
    rows = []
    for kind, degrees, rows_of in kinds:
        if not rows_of.any():
            continue
        against = rows_of | ~wrong
        area = auc(distance[against], rows_of[against]) if kind != "right" else float("nan")
        known = posterior[rows_of][np.isfinite(posterior[rows_of])]
        rows.append({
            "kind": kind, "degrees": degrees, "count": int(rows_of.sum()), "kept": int((rows_of & kept).sum()),
            "mean_posterior": float(known.mean()) if len(known) else None, "auc": None if np.isnan(area) else area,
        })  # fmt: skip
    return rows


def detection_report(columns: dict[str, np.ndarray]) -> tuple[dict, DetectionCurves]:
    """Everything about the planted errors of a run: ``detection``'s entries and more, and the curves.

    columns : of a run's particles.h5, with ``pose_error``; ``angular_error`` and ``junk`` count where they exist.
    Skipped particles do not count. Adds ``average_precision``, ``best_f1``, ``best_threshold`` (distance) and
    ``confusion``.
    """
    used = {name: values[~columns["skipped"]] for name, values in columns.items()}
    distance, wrong, kept = used["distance"], used["pose_error"], used["kept"]
    curves = DetectionCurves.of(distance, wrong)
    both = bool(wrong.any())
    report = {
        **detection(distance, ~kept, wrong),
        "average_precision": curves.average_precision if both else None,
        "best_f1": float(curves.f1[curves.best]) if both else None,
        "best_threshold": float(curves.threshold[curves.best]) if both else None,
        "confusion": confusion(distance, kept, used["posterior"], wrong, used.get("angular_error"), used.get("junk")),
    }
    return report, curves
