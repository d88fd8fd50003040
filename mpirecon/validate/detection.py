"""How well the simulated errors were found, where the truth is known."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from mpirecon.io.atomic import atomic_path
from mpirecon.io.run_output import took_part
from mpirecon.model.pose_state import FOUND, FOUND_WITHIN, WRONG_BEYOND

#: edges of the bins of angular error, degrees
ANGLES = (0, 2, 5, 10, 20, 45, 180)

#: edges of the bins of a wrong offset, Å
OFFSETS = (0, 2, 5, 10, 20, np.inf)

#: kind of simulated error → its flags among a run's columns
KINDS = {
    "orientation": "planted_orientation", "hand": "planted_hand", "offset": "planted_offset",
    "defocus": "planted_defocus",
    "duplicate": "duplicate_of", "junk": "junk",
}  # fmt: skip

#: kind → the column of its size, and the unit
SIZES = {"orientation": ("angular_error", "degrees"), "offset": ("offset_error", "Å"),
         "defocus": ("defocus_error", "Å")}

#: points of the curves that are written; their areas are taken of all
_POINTS = 1000


def auc(distance: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a wrong particle lies further than a right one, ties half.

    distance : (m,) float
    wrong : (m,) bool · NaN when all particles are of one kind. Mann & Whitney 1947.
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

    threshold : (k,) float64, particles at this distance or further are left out; the first is infinite: none
    left_out : (k,) int64
    recall : (k,) fraction of the wrong that is left out
    false_positive_rate : (k,) fraction of the right that is
    precision : (k,) fraction of the left out that is wrong (1 for none)
    f1 : (k,)
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


def write_detection_csv(path, curves: DetectionCurves, more: dict[str, np.ndarray] | None = None) -> None:
    """One row a threshold, the columns of DetectionCurves and those of `more`; atomic. Replaces an earlier one."""
    columns = {name: getattr(curves, name) for name in curves.__dataclass_fields__} | (more or {})
    with atomic_path(path, overwrite=True) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in zip(*columns.values()):
            table.writerow([f"{value:.7g}" for value in row])


def detection(distance: np.ndarray, discarded: np.ndarray, wrong: np.ndarray) -> dict:
    """AUC of the distance, and precision, recall and F1 of the discarded as a find of the wrong.

    Also ``wrong``, ``kept``, ``wrong_among_kept`` (counts) and ``wrong_share_of_kept``.
    Shares are None where they would divide by zero.
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
    junk: np.ndarray | None = None, offset: np.ndarray | None = None, turned: np.ndarray | None = None,
    fate: dict[str, np.ndarray] | None = None,
) -> list[dict]:
    """How particles of each kind fared: the right, the wrong by angular error, those wrong in their offset alone, junk.

    Parameters
    ----------
    posterior : (m,) float, NaN where the loss knows none
    angle : (m,) degrees between given and true pose; left out, all wrong poses are one kind
    junk : (m,) bool, images without a particle; left out: not known
    offset : (m,) Å between given and true offset; left out, none is wrong
    turned : (m,) bool, whose orientation is wrong; left out, that of all wrong ones
    fate : name → (m,) bool, what else became of particles (``fate``): counted in each row by that name

    Returns
    -------
    list of dict
        ``kind`` (right, wrong, offset or junk), ``degrees`` [from, to] or None, ``angstrom`` [from, to] of the kind
        offset, ``count``, ``kept``, ``mean_posterior`` and ``auc`` against the right ones (None where undefined); kinds
        without particles are left out.
    """
    junk = np.zeros(len(wrong), bool) if junk is None else junk
    posed = wrong & ~junk
    moved = np.zeros(len(wrong), bool) if offset is None or turned is None else posed & ~turned
    kinds = [("right", None, ~wrong)]
    if angle is None:
        kinds.append(("wrong", None, posed & ~moved))
    else:
        kinds += [("wrong", *some) for some in _binned(angle, ANGLES, posed & ~moved)]
    kinds += [("offset", *some) for some in _binned(offset, OFFSETS, moved)] if moved.any() else []
    kinds.append(("junk", None, wrong & junk))
    rows = []
    for kind, between, rows_of in kinds:
        if not rows_of.any():
            continue
        against = rows_of | ~wrong
        area = auc(distance[against], rows_of[against]) if kind != "right" else float("nan")
        known = posterior[rows_of][np.isfinite(posterior[rows_of])]
        rows.append({
            "kind": kind, "degrees": None if kind == "offset" else between, "count": int(rows_of.sum()),
            "kept": int((rows_of & kept).sum()),
            "mean_posterior": float(known.mean()) if len(known) else None, "auc": None if np.isnan(area) else area,
            **_counts(fate, rows_of),
            **({"angstrom": [low if np.isfinite(low) else None for low in between]} if kind == "offset" else {}),
        })  # fmt: skip
    return rows


def fate(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What became of particles whose poses were searched, (m,) bool each; nothing where no poses were.

    ``at_found`` : kept at a found pose, ``found_again`` : at one within 5° of the truth, ``accepted_wrong`` : at one
    more than 10° off, or without a particle in the image
    """
    if "pose_state" not in columns or "final_angular_error" not in columns:
        return {}
    at_found, off = columns["pose_state"] == FOUND, columns["final_angular_error"]
    junk = columns["junk"].astype(bool) if "junk" in columns else np.zeros(len(off), bool)
    return {"at_found": at_found, "found_again": at_found & ~junk & (off < FOUND_WITHIN),
            "accepted_wrong": at_found & (junk | (off > WRONG_BEYOND))}


def _counts(flags: dict[str, np.ndarray] | None, rows: np.ndarray) -> dict[str, int]:
    return {name: int((rows & values).sum()) for name, values in (flags or {}).items()}


def _binned(size: np.ndarray, edges: tuple, of: np.ndarray) -> list[tuple[list, np.ndarray]]:
    """([from, to], rows) of each bin of the errors' size, among the rows `of` (bool)."""
    bins = np.digitize(size, edges[1:-1])
    return [(list(edges[b : b + 2]), of & (bins == b)) for b in range(len(edges) - 1)]


def planted_kinds(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kind of error → flags (m,) of the particles that have it, perhaps beside others;
    kinds without any particles are left out."""
    known = {kind: columns[name] >= 0 if name == "duplicate_of" else columns[name].astype(bool)
             for kind, name in KINDS.items() if name in columns}
    if not known.keys() & {"orientation", "offset", "hand"}:  # files of before kinds were distinguished
        known["orientation"] = columns["pose_error"] & ~known.get("junk", np.zeros_like(columns["pose_error"]))
    return {kind: known[kind] for kind in KINDS if kind in known and known[kind].any()}


def _turned(columns: dict[str, np.ndarray]) -> np.ndarray:
    """(m,) bool, whose orientation is wrong, by whatever error."""
    kinds = planted_kinds(columns)
    return np.any(
        [np.zeros_like(columns["pose_error"]), *(kinds[kind] for kind in ("orientation", "hand") if kind in kinds)],
        axis=0,
    )


def by_kind(columns: dict[str, np.ndarray]) -> list[dict]:
    """How well each kind of simulated error was found,
    each against the particles of right pose that have not this error.

    Returns
    -------
    list of dict
        ``kind``; ``count``, ``alone`` (those that have no other error), ``kept``; ``rms`` size in ``unit`` (None for
        kinds without a size); ``auc`` of the distance; ``recall``, the fraction of them that was left out, and
        ``precision``, the fraction of them among what was left out of them and of those; ``mean_posterior``. None where
        undefined.
    """
    kinds = planted_kinds(columns)
    errors = sum((flags.astype(int) for flags in kinds.values()), np.zeros(len(columns["kept"]), int))
    rows = []
    for kind, flags in kinds.items():
        against = flags | ~columns["pose_error"]
        score = detection(*(values[against] for values in (columns["distance"], ~columns["kept"], flags)))
        name, unit = SIZES.get(kind, (None, None))
        size = columns[name][flags] if name in columns else None
        known = columns["posterior"][flags][np.isfinite(columns["posterior"][flags])]
        rows.append({
            "kind": kind, "count": score["wrong"], "alone": int((flags & (errors == 1)).sum()),
            "kept": score["wrong_among_kept"],
            "rms": None if size is None else float(np.sqrt(np.mean(size.astype(np.float64) ** 2))),
            "unit": None if size is None else unit,
            **{key: score[key] for key in ("auc", "recall", "precision")},
            "mean_posterior": float(known.mean()) if len(known) else None,
            **_counts(fate(columns), flags),
        })  # fmt: skip
    return rows


def curves_by_kind(columns: dict[str, np.ndarray], curves: DetectionCurves) -> dict[str, np.ndarray]:
    """``recall_KIND``, the fraction of a kind that leaving out from each threshold on finds, and ``precision_KIND``,
    the fraction of that kind among those of it and of the others of right pose that are left out;
    used ones alone count."""
    used = _used(columns)
    out = {}
    for kind, flags in planted_kinds(used).items():
        false = _beyond(used["distance"][~used["pose_error"] & ~flags], curves.threshold)
        hits = _beyond(used["distance"][flags], curves.threshold)
        out[f"recall_{kind}"] = hits / max(int(flags.sum()), 1)
        out[f"precision_{kind}"] = np.divide(hits, hits + false, out=np.ones(len(hits)), where=hits + false > 0)
    return out


def _beyond(distance: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """How many lie at each threshold or further."""
    return len(distance) - np.searchsorted(np.sort(distance), threshold, side="left")


def _used(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[took_part(columns)] for name, values in columns.items()}


def detection_report(columns: dict[str, np.ndarray]) -> tuple[dict, DetectionCurves]:
    """Everything about the simulated errors of a run: ``detection``'s entries and more, and the curves.

    columns : of a run's particles.h5, with ``pose_error``; the sizes and flags of errors (KINDS, SIZES) count where
        they exist. Skipped particles do not count. Adds ``average_precision``, ``best_f1``, ``best_threshold``
        (distance), ``confusion`` and ``by_kind``; where poses were searched, also what `fate` names, of all particles
        and in each row of these two.
    """
    used = _used(columns)
    distance, wrong, kept = used["distance"], used["pose_error"], used["kept"]
    curves = DetectionCurves.of(distance, wrong)
    both = bool(wrong.any())
    report = {
        **detection(distance, ~kept, wrong),
        "average_precision": curves.average_precision if both else None,
        "best_f1": float(curves.f1[curves.best]) if both else None,
        "best_threshold": float(curves.threshold[curves.best]) if both else None,
        "confusion": confusion(
            distance, kept, used["posterior"], wrong, used.get("angular_error"), used.get("junk"),
            used.get("offset_error"),
            _turned(used) if "planted_offset" in used else None, fate(used),
        ),
        "by_kind": by_kind(used),
        **_counts(fate(used), np.ones(len(wrong), bool)),
    }
    return report, curves
