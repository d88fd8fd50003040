"""What to be wary of in finished maps: directions, few particles, masks. Thresholds are listed in docs/report.md."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpirecon.validate.masks import radius_grid

#: a half set of fewer particles makes a map whose FSC, and what is measured of each particle, scatter
FEWEST_IN_HALF = 100

#: least over largest area under the FSC curves of all directions up to the map's resolution: cryoSPARC warns below it
#: (cFAR) …
LEAST_AREA_RATIO = 0.5

#: … how much coarser than the median direction the worst may be …
WORST_OVER_MEDIAN = 1.5

#: … and by how many standard deviations of chance the worst direction must differ for either to count: in maps of few
#: particles or few voxels the curve of a cone scatters
_SIGNIFICANT = 3.0

#: half maps whose FSC is below it in all shells but the first, which hardly a sample is in, share nothing to speak of
_AGREED, _FIRST_SHELL = 0.5, 2

#: share of a mask's height, from which voxels are inside; of what half maps share, from which a diameter leaves too
#: much outside; least share of voxels outside, over those inside, and standard errors, for a mask to tell
_HALF, _MUCH, _LEAST_OUTSIDE, _SIGNIFICANT_OUTSIDE = 0.5, 0.25, 0.1, 4.0

#: FSC of maps with random phases at the resolution: what the mask alone makes there
LARGEST_RANDOMISED = 0.1

#: voxels at the edge of the sphere that the box holds, where maps may have been cut to it
_SPHERE_EDGE = 4

#: share of voxels that are 0 in both half maps, from which on they were masked
_BLANK = 0.25

#: step between neighbouring voxels at a mask's edge, of its height, from which it has no soft edge (a cosine over 2
#: voxels: 0.7)
_HARD_STEP = 0.75


def anisotropy_warning(cones: Mapping | None) -> str | None:
    """A warning where the resolution depends on direction; cones : of ``postprocess`` in summary.json."""
    if not cones or "unevenness" not in cones:
        return None
    uneven = cones["area_ratio"] < LEAST_AREA_RATIO or cones["worst"] > WORST_OVER_MEDIAN * cones["median"]
    if not uneven or cones["unevenness"] < _SIGNIFICANT:
        return None
    return (
        f"the resolution depends on direction: {cones['best']:.1f} Å along the best and {cones['worst']:.1f} Å along "
        f"the "
        f"worst (median {cones['median']:.1f} Å; ratio of areas under the FSC curves {cones['area_ratio']:.2f}, "
        f"sphericity "
        f"{cones['sphericity']:.2f}). Some views are probably missing, and the map is smeared along those directions"
    )


def curvature_warning(summary: Mapping) -> str | None:
    """A warning where a run's map is finer than flat slices allow."""
    at, curvature = summary["resolution_0143"] or summary["nyquist"], summary["ewald_sphere"]
    if at >= curvature["resolution"]:
        return None
    return (f"the map reaches {at:.2f} Å, and {curvature_in_words(curvature)}: export the particles and use "
            f"relion_reconstruct --ewald")


def curvature_in_words(curvature: Mapping) -> str:
    """From which resolution on curvature matters; curvature : ``ewald_sphere`` in summary.json."""
    return (f"the curvature of the Ewald sphere matters beyond {curvature['resolution']:.2f} Å for a particle of "
            f"{curvature['diameter']:.0f} Å at "
            f"{curvature['voltage_kv']:g} kV, where slices are taken for flat")


def same_map_warning(first: np.ndarray, second: np.ndarray) -> str | None:
    """A warning where two half maps are one map, voxel by voxel."""
    if not np.array_equal(first, second):
        return None
    return "the two half maps are the same map: they agree everywhere, up to Nyquist, whatever they show"


def masked_halves_warning(first: np.ndarray, second: np.ndarray) -> str | None:
    """A warning where half maps, (n, n, n), were masked: both are 0 in many voxels of the sphere, where there would be
    noise."""
    box = len(first)
    inside = radius_grid(box) < box // 2 - _SPHERE_EDGE
    blank = float(((first == 0) & (second == 0))[inside].mean()) if inside.any() else 0.0
    if blank < _BLANK:
        return None
    return (f"both half maps are 0 in {100 * blank:.0f} % of the sphere that the box holds: they were masked, and "
            f"agree at the edge of that "
            "mask whatever they show. Take unmasked half maps")


def half_map_warnings(first: np.ndarray, second: np.ndarray) -> tuple[str, ...]:
    """Both warnings of half maps, where they apply."""
    return tuple(text for text in (same_map_warning(first, second), masked_halves_warning(first, second)) if text)


def no_agreement_warning(curve: np.ndarray, box_width: float) -> str | None:
    """A warning where half maps agree in nothing; curve : (shells,) their FSC; box_width : Å."""
    shells = curve[_FIRST_SHELL:]
    if not len(shells) or shells.max() >= _AGREED:
        return None
    best = int(shells.argmax()) + _FIRST_SHELL
    return (f"the half maps agree in nothing: their FSC stays below {_AGREED} (at most {shells.max():.2f}, at "
            f"{box_width / best:.3g} Å), so that the map shows noise. Do the images show the particle, and are the "
            "poses theirs, and not of another job or stack? Very few or very noisy particles look so too")


def outside_warning(first: np.ndarray, second: np.ndarray, mask: np.ndarray, name: str, focus: bool) -> str | None:
    """A warning where the particle lies outside a mask (n, n, n), 0 … 1: half maps, which are not masked, share more
    there.

    focus : the mask may hold a part of the particle, which then is at least as dense as what is outside
    """
    product = first * second
    inside = mask > _HALF * mask.max()
    outside = (mask == 0) & (radius_grid(len(mask)) < len(mask) // 2 - _SPHERE_EDGE)
    if not inside.any() or outside.sum() < _LEAST_OUTSIDE * inside.sum():
        return None
    (a, error_a), (b, error_b) = ((float(product[some].mean()), float(product[some].std() / np.sqrt(some.sum())))
                                  for some in (inside, outside))
    share = b * outside.sum() / max(a * inside.sum() + b * outside.sum(), 1e-300)
    beyond = b > a if focus else share > _MUCH
    if b < _SIGNIFICANT_OUTSIDE * error_b or not beyond or (focus and b - a < _SIGNIFICANT_OUTSIDE * error_a):
        return None
    what = "it is the denser part" if focus else f"{100 * min(share, 1):.0f} % of it"
    return (f"what the half maps share lies outside of {name} ({what}): particles are scored, and the resolution is "
            "quoted, without it. Is the mask that of this map, in the middle of the box and 1 inside, and a diameter "
            "in Å?")


def few_particles_warning(in_halves: tuple[int, int]) -> str | None:
    """A warning where half sets of these many particles are small."""
    if min(in_halves) >= FEWEST_IN_HALF:
        return None
    return (f"half sets of {in_halves[0]} and {in_halves[1]} particles are small (a warning below {FEWEST_IN_HALF}): "
            f"the FSC, "
            "the resolution and fractions of particles are uncertain")


def hard_mask_warning(mask: np.ndarray, name: str) -> str | None:
    """A warning where a mask (n, n, n), 0 … 1, has no soft edge: the step across half of its height is nearly all of
    it."""
    height = float(mask.max())
    steps = []
    for axis in range(3):
        a = np.moveaxis(mask, axis, 0)
        across = (a[1:] >= height / 2) != (a[:-1] >= height / 2)
        steps.append(np.abs(a[1:] - a[:-1])[across])
    steps = np.concatenate(steps)
    if not steps.size or np.median(steps) < _HARD_STEP * height:
        return None
    return (f"the mask {name} has a hard edge: it falls from inside to outside within a voxel, which correlates the "
            f"half "
            "maps and makes the resolution look better than it is. Give it a soft edge of 3 voxels or more "
            "(relion_mask_create --width_soft_edge 5, or mpirecon mask)")


def tight_mask_warning(randomised: float | None, name: str) -> str | None:
    """A warning where a mask makes half maps of random phases agree at the resolution; randomised : their FSC there."""
    if randomised is None or randomised <= LARGEST_RANDOMISED:
        return None
    return (f"the mask {name} is tight: maps with random phases agree in it by {randomised:.2f} at the resolution (a "
            f"warning above "
            f"{LARGEST_RANDOMISED:g}). Quote the FSC corrected for the mask, or take a wider, softer one")


def mask_warnings(mask: np.ndarray | None, name: str, randomised: float | None = None) -> tuple[str, ...]:
    """Both warnings of a mask (n, n, n), where they apply; none without a mask."""
    texts = () if mask is None else (hard_mask_warning(mask, name), tight_mask_warning(randomised, name))
    return tuple(text for text in texts if text)
