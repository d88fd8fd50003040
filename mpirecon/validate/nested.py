"""What a path of nested selections shows: what each step is worth, and whether any is worth more than all particles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mpirecon.validate.directional import conical_fsc_of_transforms
from mpirecon.validate.fsc import crossing, fsc_of_transforms
from mpirecon.validate.guinier import guinier_of_transform
from mpirecon.validate.masks import independent_share
from mpirecon.validate.path_resolution import FittedResolutions

#: a gain is beyond chance where random discards reach it in less than this fraction of paths
_CHANCE = 0.05

#: random discards whose scatter can be estimated
_FEWEST_DRAWS = 3

#: random discards, and range of ln N, that a B-factor is fitted to
_FEWEST_FITTED, _LEAST_RANGE = 4, 0.5


def measured(
    halves: tuple[np.ndarray, np.ndarray], mask: np.ndarray, pixel_size: float, last: int,
    whole: np.ndarray | None = None
) -> tuple[dict, np.ndarray]:
    """Numbers and curves of a step's half maps, and the transform of their masked mean.

    Parameters
    ----------
    halves : two (n, n, n) maps, unfiltered
    mask : (n, n, n)
    last : finest shell that was reconstructed
    whole : (n, n, n // 2 + 1) complex, the transform of the mean of all particles' half maps; None where these are they
    """
    first, second = (np.fft.rfftn(half * mask).astype(np.complex64) for half in halves)
    box = len(mask)
    mean = (first + second) / 2
    curve = fsc_of_transforms(first, second, box)
    at = crossing(curve, 0.143, box, pixel_size)
    to_whole = fsc_of_transforms(mean, mean if whole is None else whole, box)
    fit = guinier_of_transform(mean, pixel_size, curve, at)
    cones = conical_fsc_of_transforms(first, second, pixel_size, independent=independent_share(mask))
    return {
        "resolution_0143": at, "resolution_05": crossing(curve, 0.5, box, pixel_size),
        "mean_fsc": float(curve[1 : last + 1].mean()),
        "fsc_to_all": float(to_whole[1 : last + 1].mean()), "fsc_to_all_05": crossing(to_whole, 0.5, box, pixel_size),
        "bfactor": fit.bfactor, "area_ratio": cones.area_ratio, "sphericity": cones.sphericity,
        "resolution_worst": float(cones.resolution.max()), "resolution_best": float(cones.resolution.min()),
        "fsc": curve.tolist(), "fsc_to_all_curve": to_whole.tolist(),
    }, mean  # fmt: skip


@dataclass(frozen=True)
class PathVerdict:
    """Where a path pays.

    best : fraction of the particles of the step with the largest mean half-map FSC
    best_resolution : of the one with the most particles of those whose resolution is within a standard error of the
        finest
    gain : of the mean FSC of the best over that of all particles
    limit : largest gain that random discards of that size reach by chance, None where there are too few
    scatter : standard deviation of theirs
    bfactor : Å², of the random discards, after Rosenthal and Henderson
    """

    best: float
    best_resolution: float
    gain: float
    scatter: float | None
    limit: float | None
    bfactor: float | None
    sentence: str

    @property
    def pays(self) -> bool:
        """Whether the best step is better than all particles, beyond chance."""
        return self.best < 1 and self.limit is not None and self.gain > self.limit

    def as_dict(self) -> dict:
        return {**asdict(self), "pays": self.pays}


def assess(steps: Sequence[dict], random: Sequence[dict], nyquist: float,
          fitted: FittedResolutions | None = None) -> PathVerdict:
    """From the records of the steps, that of all particles first, and of random discards of the same sizes.

    Each has ``fraction``, ``particles``, ``resolution_0143``, ``mean_fsc``. The best step is that of the largest mean
    half-map FSC, which scatters less than the place where a curve falls below a threshold,
    and distinguishes steps that all reach Nyquist.
    fitted : resolutions from all curves together; without, the best resolution is that of the curve that falls last
    """
    best = max(steps, key=lambda step: (step["mean_fsc"], step["fraction"]))
    finest = _finest(steps, nyquist, fitted)
    gain = best["mean_fsc"] - steps[0]["mean_fsc"]
    scatter, limit = _chance(steps, random, best["fraction"])
    fitted = rosenthal_henderson([steps[0], *random])
    found = PathVerdict(best["fraction"], finest["fraction"], gain, scatter, limit,
                        None if fitted is None else fitted[0], "")
    sentence = _sentence(found, steps[0], best, _alike(random, best["fraction"], nyquist), nyquist)
    return PathVerdict(**{**asdict(found), "sentence": sentence})


def _finest(steps: Sequence[dict], nyquist: float, fitted: FittedResolutions | None) -> dict:
    """The step of the best resolution; where all curves reach Nyquist, of the largest mean FSC."""
    if fitted is not None and fitted.best is not None:
        return steps[fitted.best]
    return max(steps, key=lambda step: (_frequency(step, nyquist), step["mean_fsc"]))


def _frequency(step: dict, nyquist: float) -> float:
    return 1 / (step["resolution_0143"] or nyquist)


def _chance(steps: Sequence[dict], random: Sequence[dict], fraction: float) -> tuple[float | None, float | None]:
    """Standard deviation of the mean FSC of random discards of a size,
    and the gain that the best of all steps reaches by chance.

    A subset of the fraction q differs from the whole by noise of variance in proportion to 1/q − 1; what its mean FSC
    falls by is fitted as a polynomial of ln q, and what is left is the scatter.
    """
    if fraction == 1 or len(random) < _FEWEST_DRAWS:
        return None, None
    from scipy.stats import t  # slow to load

    q = np.array([draw["fraction"] for draw in random])
    width = np.sqrt(1 / q - 1)
    fall = np.array([draw["mean_fsc"] for draw in random]) - steps[0]["mean_fsc"]
    terms = 2 if len(np.unique(q)) > 2 and len(q) > _FEWEST_DRAWS + 1 else 1
    design = np.stack([np.log(q) ** k for k in range(1, terms + 1)], axis=1)
    fit = np.linalg.lstsq(design / width[:, None], fall / width, rcond=None)[0]
    free = len(q) - terms
    unit = math.sqrt(np.square((fall - design @ fit) / width).sum() / free)
    scatter = unit * math.sqrt(1 / fraction - 1)
    return scatter, scatter * float(t.ppf(1 - _CHANCE / max(len(steps) - 1, 1), free))


def rosenthal_henderson(steps: Sequence[dict]) -> tuple[float, float] | None:
    """(B in Å², intercept) of ln N = B/(2 d²) + intercept through the resolutions d of maps of N particles; None where
    it cannot be fitted (Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721)."""
    at = [step.get("resolution_fitted", step["resolution_0143"]) for step in steps]
    known = [(step["particles"], resolution) for step, resolution in zip(steps, at) if resolution is not None]
    if len(known) < _FEWEST_FITTED:
        return None
    x = np.log([particles for particles, _ in known])
    y = np.array([resolution for _, resolution in known]) ** -2.0
    if np.ptp(x) < _LEAST_RANGE:
        return None
    slope, intercept = np.polyfit(x, y, 1)  # N is exact, resolutions scatter
    return (2 / float(slope), -float(intercept) / float(slope)) if slope > 0 else None


def _alike(random: Sequence[dict], fraction: float, nyquist: float) -> float | None:
    """Median resolution of the random discards of a size."""
    found = [_frequency(draw, nyquist) for draw in random if draw["fraction"] == fraction]
    return 1 / float(np.median(found)) if found else None


def _sentence(found: PathVerdict, whole: dict, best: dict, at_random: float | None, nyquist: float) -> str:
    def at(step: dict) -> str:
        return f"{step['resolution_0143']:.2f} Å" if step["resolution_0143"] else f"Nyquist ({nyquist:.4g} Å)"

    share, some = f"{100 * best['fraction']:.3g} %", f"{best['particles']} of {whole['particles']} particles"
    lot = "" if at_random is None else f", and {at_random:.2f} Å of as many at random"
    change = "the mean half-map FSC changes by " + f"{found.gain:+.4f}".replace("-", "−")
    if best is whole:
        return (f"Nothing is gained by leaving particles out: the half maps of all {whole['particles']} particles "
                f"agree best ({at(whole)}, mean FSC {whole['mean_fsc']:.4f}).")
    if found.limit is None:
        return (f"The half maps of the best-scored {share} ({some}) agree best, {at(best)} against {at(whole)} of "
                f"all{lot}; {change}, but so few random discards cannot show whether this is chance: use more with "
                f"--random-draws.")
    if found.pays:
        return (f"It pays to keep the best-scored {share} ({some}): {at(best)} instead of {at(whole)} of all{lot}; "
                f"{change}, beyond what random discards of this size reach by chance (+{found.limit:.4f}).")
    return (f"Nothing is gained beyond chance: the half maps of the best-scored {share} ({some}) agree best, "
            f"{at(best)} against {at(whole)} of all{lot}, but {change}, within what random discards of this size reach "
            f"by chance (+{found.limit:.4f}).")
