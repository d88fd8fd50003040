"""Maps in scripts: read, write, show, compare and post-process them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io import mrc
from mpirecon.model import arrays
from mpirecon.validate import automask
from mpirecon.validate import fsc as curves
from mpirecon.validate import postprocess as after
from mpirecon.validate.grids import check_same_grid


class Volume(arrays.Volume):
    """A density map V[z, y, x], cubic, origin at voxel n // 2, that can be written and shows itself in a notebook.

    Parameters
    ----------
    array : (n, n, n) float16, float32 or float64
        ``[z, y, x]``, origin at voxel n//2
    pixel_size : float
        Å

    Raises
    ------
    UserError
        when shape, dtype or pixel size are not these.
    """

    def write(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the map as MRC (float32).

        Parameters
        ----------
        path : path
            of the map
        overwrite : bool
            replace an existing file

        Raises
        ------
        UserError
            if the file exists (without `overwrite`) or cannot be written.
        """
        mrc.write_map(path, np.asarray(self.to_numpy(), np.float32), self.pixel_size, overwrite=overwrite)

    def _repr_html_(self) -> str:
        from mpirecon.report.pictures import row_of_pictures, slices

        return row_of_pictures(slices(self.to_numpy()), self.pixel_size, repr(self))


def read_map(path: str | os.PathLike) -> Volume:
    """Read a map from an MRC file.

    Parameters
    ----------
    path : path
        of the map

    Returns
    -------
    Volume
        (n, n, n) float32 with the file's pixel size

    Raises
    ------
    UserError
        naming the file when it is no map.
    """
    found = mrc.read_map(path)
    return Volume(found.array, found.pixel_size)


def as_volume(given, pixel_size: float | None, what: str) -> Volume:
    """A Volume of a Volume, a path, or an (n, n, n) array, which has no pixel size of its own."""
    if isinstance(given, (str, os.PathLike)):
        return read_map(given)
    if isinstance(given, arrays.Volume):
        return Volume(given.array, given.pixel_size)
    array = np.asarray(given)
    if array.dtype.kind in "iub":
        array = array.astype(np.float32)
    if pixel_size is None:
        raise UserError(f"{what}: an array has no pixel size; give a Volume(array, pixel_size), or the path of a map")
    return Volume(array, pixel_size)


@dataclass(frozen=True)
class FSC:
    """A Fourier shell correlation.

    Attributes
    ----------
    values : (n // 2 + 1,) float64
    box : int
        voxels a side
    pixel_size : float
        Å
    """

    values: np.ndarray
    box: int
    pixel_size: float

    @property
    def frequency(self) -> np.ndarray:
        """Spatial frequency of each shell, 1/Å, (n // 2 + 1,)."""
        return np.arange(len(self.values)) / (self.box * self.pixel_size)

    def crossing(self, threshold: float = 0.143) -> float | None:
        """Resolution at which the curve first falls below a threshold.

        Parameters
        ----------
        threshold : float
            FSC, e.g. 0.143 or 0.5

        Returns
        -------
        float or None
            Å; None if the curve stays above
        """
        return curves.crossing(self.values, threshold, self.box, self.pixel_size)

    @property
    def resolution(self) -> float | None:
        """`crossing` at 0.143 (Rosenthal & Henderson 2003)."""
        return self.crossing()

    def plot(self, axes=None):
        """Draw the curve.

        Parameters
        ----------
        axes : matplotlib Axes, optional
            new ones by default

        Returns
        -------
        matplotlib Axes
        """
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(figsize=(5, 3.4), layout="constrained").subplots()
        axes.plot(self.frequency[1:], self.values[1:])
        axes.axhline(0.143, color="grey", linestyle=":", linewidth=1)
        axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", ylim=(min(-0.05, float(self.values.min())), 1.02))
        return axes

    def __repr__(self) -> str:
        at = self.resolution
        return (f"FSC({len(self.values)} shells, 0.143 at {at:.2f} Å)" if at
                else f"FSC({len(self.values)} shells, above 0.143)")


def fsc(a, b, mask=None, pixel_size: float | None = None) -> FSC:
    """Fourier shell correlation of two maps (Harauz & van Heel 1986).

    Parameters
    ----------
    a, b, mask : Volume, path, or (n, n, n) array
        the mask multiplies both maps first
    pixel_size : float
        Å, where neither map has one

    Returns
    -------
    FSC
        a value for each shell, (n // 2 + 1,)

    Raises
    ------
    UserError
        when the maps differ in box or pixel size (by more than 0.1 %), or hold NaN.
    """
    sizes = [v.pixel_size for v in (a, b) if isinstance(v, arrays.Volume)] or [pixel_size]
    first, second = as_volume(a, sizes[0], "the first map"), as_volume(b, sizes[0], "the second map")
    check_same_grid(first, "the first map", second, "the second map")
    mask = None if mask is None else as_volume(mask, first.pixel_size, "the mask").to_numpy()
    return FSC(curves.fsc(first.to_numpy(), second.to_numpy(), mask), first.box, first.pixel_size)


def automatic_mask(volume, half_maps=None, *, resolution: float | None = None,
                   pixel_size: float | None = None) -> Volume:
    """A soft mask made from a map.

    Parameters
    ----------
    volume : Volume, path or (n, n, n) array
        the map
    half_maps : pair of the same, optional
        their FSC gives the resolution where none is given
    resolution : float
        Å, decides how far the map is low-passed; without it and half maps, three pixels
    pixel_size : float, optional
        Å, of maps that are arrays

    Returns
    -------
    Volume
        (n, n, n) float32 between 0 and 1

    Raises
    ------
    UserError
        when nothing in the map stands out from the solvent.
    """
    volume = as_volume(volume, pixel_size, "the map")
    if resolution is None and half_maps is not None:
        resolution = fsc(*half_maps, pixel_size=volume.pixel_size).resolution or 2 * volume.pixel_size
    found = automask.automatic_mask(volume.to_numpy(), volume.pixel_size, resolution)
    return Volume(found.mask, volume.pixel_size)


def postprocess(half1, half2, mask=None, *, seed: int = 1, pixel_size: float | None = None) -> after.Postprocessed:
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
    """
    first, second = as_volume(half1, pixel_size, "half map 1"), as_volume(half2, pixel_size, "half map 2")
    check_same_grid(first, "half map 1", second, "half map 2")
    unmasked = curves.fsc(first.to_numpy(), second.to_numpy())
    given = None if mask is None else np.asarray(as_volume(mask, first.pixel_size, "the mask").to_numpy(), np.float32)
    return after.postprocess(first.to_numpy(), second.to_numpy(), first.pixel_size, unmasked=unmasked, mask=given,
                             seed=seed, mask_text="" if given is None else "the given mask")
