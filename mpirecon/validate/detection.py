"""How well the planted errors were found, where the truth is known."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def auc(distance: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a wrong particle lies further than a right one, ties half.

    distance : (m,) float · wrong : (m,) bool · NaN when all particles are of one kind. Mann & Whitney 1947.
    """
    bad = int(wrong.sum())
    good = len(wrong) - bad
    if not bad or not good:
        return float("nan")
    ranks = rankdata(distance)
    return float((ranks[wrong].sum() - bad * (bad + 1) / 2) / (bad * good))


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
