"""Masks in scripts: made of maps, checked, and what two half maps are in one."""

from __future__ import annotations

import numpy as np

from mpirecon.api.maps import FSC, Volume, alike, as_volume, name_of, refuse_other_size
from mpirecon.errors import UserError
from mpirecon.kinds import NonNegative, Positive, Seed, checked
from mpirecon.validate import automask
from mpirecon.validate import fsc as curves
from mpirecon.validate import postprocess as after
from mpirecon.validate.grids import check_same_grid
from mpirecon.validate.map_warnings import same_map_warning
from mpirecon.validate.masks import check_mask


class Mask(Volume):
    """A mask made from a map, 0 … 1; ``made`` says how: lowpass, threshold, extend, edge, pieces, volume, share;
    ``warnings`` what is to be doubted of the half maps."""

    def __init__(self, array, pixel_size: float, made: automask.AutoMask | None = None,
                 warnings: tuple[str, ...] = ()) -> None:
        super().__init__(array, pixel_size)
        self.made, self.warnings = made, warnings


@checked
def automatic_mask(
    volume=None, half_maps=None, *, resolution: Positive | None = None, lowpass: Positive | None = None,
    threshold: float | None = None, extend: NonNegative | None = None, edge: NonNegative | None = None,
    pixel_size: Positive | None = None,
) -> Mask:
    """A soft mask made from a map.

    Parameters
    ----------
    volume : Volume, path or (n, n, n) array, optional
        the map; the mean of the half maps when left out
    half_maps : pair of the same, optional
        their FSC gives the resolution where none is given
    resolution : float, optional
        Å, sets what follows; without it and half maps, three pixels
    lowpass, threshold, extend, edge : float, optional
        as the options of ``mpirecon mask``: Å, density of the filtered map, Å, Å
    pixel_size : float, optional
        Å, of maps that are arrays

    Returns
    -------
    Mask
        (n, n, n) float32 between 0 and 1

    Raises
    ------
    UserError
        when nothing in the map stands out from the solvent.
    """
    if volume is None and half_maps is None:
        raise UserError("automatic_mask: give a map, or half_maps=(half1, half2)")
    first, same = None, None
    if half_maps is not None:
        if not isinstance(half_maps, (tuple, list)) or len(half_maps) != 2:
            raise UserError("half_maps: expected two maps, (half1, half2), got "
                            f"{len(half_maps) if isinstance(half_maps, (tuple, list)) else type(half_maps).__name__}")
        names = (name_of(given, f"half map {n + 1}") for n, given in enumerate(half_maps))
        first, second = alike(*half_maps, pixel_size, *names)
        same = same_map_warning(first.array, second.array)
        resolution = resolution or FSC(curves.fsc(first.array, second.array), first.box, first.pixel_size).resolution
        volume = Volume((first.array + second.array) / 2, first.pixel_size) if volume is None else volume
    volume = as_volume(volume, pixel_size if first is None else first.pixel_size, "the map")
    refuse_other_size(pixel_size, volume, "the map")
    if first is not None:
        check_same_grid(volume, "the map", first, "half map 1")
    made = automask.automatic_mask(volume.to_numpy(), volume.pixel_size, resolution, threshold=threshold,
                                   extend=extend, edge=edge, filter_to=lowpass)
    return Mask(made.mask, volume.pixel_size, made, () if same is None else (same,))


def mask_for(given, volume: Volume, name: str) -> np.ndarray:
    """The voxels of a mask, (n, n, n) float32, of the grid of a map that is called `name`."""
    mask = as_volume(given, volume.pixel_size, "the mask")
    check_same_grid(volume, name, mask, name_of(given, "the mask"))
    return check_mask(np.asarray(mask.to_numpy(), np.float32), name_of(given, "the mask"))


@checked
def postprocess(half1, half2, mask=None, *, seed: Seed = 1,
                pixel_size: Positive | None = None) -> after.Postprocessed:
    """Mask, phase-randomised FSC, FSC in cones, B-factor and sharpened map of two half maps.

    Parameters
    ----------
    half1, half2, mask : Volume, path or (n, n, n) array
        without a mask one is made from the maps
    seed : int
        of the random phases
    pixel_size : float, optional
        Å, of maps that are arrays

    Returns
    -------
    Postprocessed
        ``mask``, ``sharpened`` : (n, n, n) float32 · ``resolution`` : Å · ``fsc``, ``cones``, ``guinier``

    Raises
    ------
    UserError
        when the maps, or the mask, differ in box or pixel size, a map is constant, or the mask is none of 0 … 1.
    """
    first, second = alike(half1, half2, pixel_size, "half map 1", "half map 2")
    for half, name in ((first, "half map 1"), (second, "half map 2")):
        if not np.ptp(half.array) > 0:
            raise UserError(f"{name}: the map is constant, there is nothing to correlate")
    given = None if mask is None else mask_for(mask, first, "half map 1")
    unmasked = curves.fsc(first.array, second.array)
    return after.postprocess(first.array, second.array, first.pixel_size, unmasked=unmasked, mask=given,
                             seed=seed, mask_text="" if given is None else "the given mask")
