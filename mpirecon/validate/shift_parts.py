"""Shifts of a part of the particles against the images, where the others' are right, as after joining tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpirecon.validate.conventions import Convention

#: standard deviations that are no chance, particles that tell, and pixels that a convention must move them by
_SURE, _FEWEST, _LEAST_WAY = 5.0, 50, 0.3

#: fraction of a part, those that a convention moves most, without whom it must hold
_LEFT_OUT = 1 / 3

#: parts that particles of one optics group are looked at in
_BLOCKS = 4


@dataclass(frozen=True)
class OfPart:
    """words : which particles · compared : how many of them · better : what their shifts are taken for wrongly ·
    sigmas : standard deviations by which they agree better so with the map of all
    """

    words: str
    compared: int
    better: Convention
    sigmas: float

    def sentence(self) -> str:
        return (
            f"the images of {self.words} contradict their shifts, and those of the others do not: with shifts "
            f"{self.better.words} {self.compared} of them agree better with the other half set's map "
            f"({self.sigmas:.0f} standard deviations)"
        )

    def as_dict(self) -> dict:
        return {"particles": self.words, "compared": self.compared, "better": self.better.words, "sigmas": self.sigmas}


def part_of(
    known: list[Convention], correlation: np.ndarray, way: np.ndarray, ids: np.ndarray, group: np.ndarray
) -> OfPart | None:
    """The part that most surely contradicts its shifts; None where none does.

    known : conventions, the given one first
    correlation, way : (m, conventions), with the other half's map, and pixels by which each moves each particle
    ids, group : (m,), numbers and optics groups, ascending by number
    """
    found = []
    for words, some in _parts(ids, group):
        others = np.delete(correlation[:, 0], some)
        if not (len(others) and others.mean() > 0):  # a map of the other contrast agrees better wherever it is moved to
            continue
        # the most moved may have lost their shifts altogether
        least = np.argsort(way[some], axis=0, kind="stable")[: int(np.ceil((1 - _LEFT_OUT) * len(some)))]
        more = np.take_along_axis(correlation[some] - correlation[some, :1], least, axis=0)
        sigmas = more.mean(axis=0) / np.maximum(more.std(axis=0, ddof=1) / np.sqrt(len(least)), 1e-30)
        sure = (np.sqrt(np.square(way[some]).mean(axis=0)) > _LEAST_WAY) & (sigmas > _SURE)
        if sure.any():
            best = int(np.where(sure, correlation[some].mean(axis=0), -np.inf).argmax())
            found.append(OfPart(words, len(some), known[best], float(sigmas[best])))
    return max(found, key=lambda part: part.sigmas, default=None)


def _parts(ids: np.ndarray, group: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(which particles, their rows) of optics groups, and of successive particles."""
    numbers = np.unique(group)
    if len(numbers) > 1:
        for number in numbers:
            if len(rows := np.flatnonzero(group == number)) >= _FEWEST:
                yield f"optics group {number}", rows
    for rows in np.array_split(np.arange(len(ids)), _BLOCKS):
        if len(rows) >= _FEWEST:
            yield f"particles {ids[rows[0]]} to {ids[rows[-1]]}", rows
