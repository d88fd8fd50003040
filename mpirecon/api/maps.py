"""Maps in scripts: read, write, show, compare and post-process them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from mpirecon.api.arguments import files_among, is_path
from mpirecon.errors import UserError
from mpirecon.io import mrc
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.replaced import MAP
from mpirecon.kinds import AnyPath, Positive, Seed, checked
from mpirecon.model import arrays
from mpirecon.validate import fsc as curves
from mpirecon.validate.compare import Comparison, compare_maps
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

    @checked
    def write(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the map as MRC (float32).

        Parameters
        ----------
        path : path
            of the map
        overwrite : bool
            replace an existing map, unless it belongs to a finished run

        Raises
        ------
        UserError
            if the file exists (without `overwrite`), is no map, is one of a finished run, or cannot be written.
        """
        refuse_existing(path, overwrite, writes=MAP)
        mrc.write_map(path, np.asarray(self.to_numpy(), np.float32), self.pixel_size, overwrite=overwrite)

    def _repr_html_(self) -> str:
        from mpirecon.report.pictures import row_of_pictures, slices

        return row_of_pictures(slices(self.to_numpy()), self.pixel_size, repr(self))


@checked
def read_map(path: AnyPath, pixel_size: Positive | None = None) -> Volume:
    """Read a map from an MRC file.

    Parameters
    ----------
    path : path
        of the map
    pixel_size : float, optional
        Å, where the file's own is wrong or missing

    Returns
    -------
    Volume
        (n, n, n) float32 with that pixel size, or the file's

    Raises
    ------
    UserError
        naming the file when it is no map.
    """
    found = mrc.read_map(path, pixel_size)
    return Volume(found.array, found.pixel_size)


def as_volume(given, pixel_size: float | None, what: str) -> Volume:
    """A Volume of a Volume, a path, or an (n, n, n) array, which has no pixel size of its own."""
    if is_path(given):
        return read_map(given)
    if isinstance(given, arrays.Volume):
        return Volume(given.array, given.pixel_size)
    try:
        array = given if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    except ValueError:
        array = np.zeros(0, object)
    if array.ndim != 3 or array.dtype.kind not in "iubf":
        got = f"an array of {array.dtype} of shape {array.shape}" if isinstance(given, np.ndarray) \
            else type(given).__name__
        raise UserError(f"{what}: expected a Volume, the path of a map, or an (n, n, n) array of numbers, got {got}")
    if array.dtype.kind in "iub" or not array.dtype.isnative:
        array = array.astype(np.float32)
    if pixel_size is None:
        raise UserError(f"{what}: an array has no pixel size; give a Volume(array, pixel_size), or the path of a map")
    return Volume(array, pixel_size)


def refuse_other_size(pixel_size: float | None, volume: Volume, name: str) -> None:
    """Raise UserError where the pixel size that was given with a map is not that which the map has by itself."""
    if pixel_size is not None and abs(pixel_size - volume.pixel_size) > 1e-3 * pixel_size:
        raise UserError(f"pixel_size={pixel_size:g}: {name} has pixels of {volume.pixel_size:g} Å; leave it out, or "
                        "give Volume(array, pixel_size) where the map's own is wrong")


def name_of(given, otherwise: str) -> str:
    """How messages name a map: by its path, if it was given as one."""
    return os.fspath(given) if is_path(given) else otherwise


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
    comparison : Comparison or None
        of two maps, as `fsc` compares them: ``curves`` by name, ``cones``, ``mask``, ``warnings``, ``lines()``,
        ``as_dict()`` and ``write(path)``
    """

    values: np.ndarray
    box: int
    pixel_size: float
    comparison: Comparison | None = None

    @property
    def frequency(self) -> np.ndarray:
        """Spatial frequency of each shell, 1/Å, (n // 2 + 1,)."""
        return np.arange(len(self.values)) / (self.box * self.pixel_size)

    @checked
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

    @checked
    def draw(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the figure of two compared maps: the curves with and without masks, and where they cross 0.143.

        Parameters
        ----------
        path : path
            .png, .svg or .pdf
        overwrite : bool
            replace a file that exists

        Raises
        ------
        UserError
            when the file exists, is one of the maps, or has another ending, and when the curve is of no two maps.
        """
        from mpirecon.report.figures import draw_comparison

        if self.comparison is None:
            raise UserError("this curve is of no two maps that fsc has compared; plot() draws it")
        draw_comparison(self.comparison, path, overwrite=overwrite)

    def __repr__(self) -> str:
        at = self.resolution
        return (f"FSC({len(self.values)} shells, 0.143 at {at:.2f} Å)" if at
                else f"FSC({len(self.values)} shells, above 0.143)")


@checked
def fsc(a, b, mask=None, pixel_size: Positive | None = None, *, phase_randomise: bool = False, cones: bool = False,
        seed: Seed = 1) -> FSC:
    """Fourier shell correlation of two maps (Harauz & van Heel 1986).

    Parameters
    ----------
    a, b : Volume, path, or (n, n, n) array
        the maps
    mask : Volume, path, (n, n, n) array, or "auto"
        multiplies both maps first; ``"auto"``: one made of their mean
    pixel_size : float
        Å, where neither map has one
    phase_randomise : bool
        correct for the mask by random phases
    cones : bool
        also find the FSC in cones, by direction
    seed : int
        of the random phases

    Returns
    -------
    FSC
        the corrected curve if there is one, else that in the mask, else that without, (n // 2 + 1,);
        ``comparison`` has all of them

    Raises
    ------
    UserError
        when the maps differ in box or pixel size (by more than 0.1 %), are constant, or hold NaN.
    """
    names = [name_of(given, f"the {what}") for given, what in ((a, "first map"), (b, "second map"), (mask, "mask"))]
    first, second = alike(a, b, pixel_size, *names[:2])
    automatic = isinstance(mask, str) and mask == "auto"
    given = mask if mask is None or automatic else as_volume(mask, first.pixel_size, "the mask")
    found = compare_maps(first, second, given, names=names, randomise=phase_randomise, cones=cones, seed=seed,
                         files=files_among(first_map=a, second_map=b, mask=None if automatic else mask))
    return FSC(found.curves[found.best], found.box, found.pixel_size, found)


def alike(a, b, pixel_size: float | None, name_a: str, name_b: str) -> tuple[Volume, Volume]:
    """Two maps on the host, of one grid; an array has the pixel size of the other, or that which is given."""
    size = next((v.pixel_size for v in (a, b) if isinstance(v, arrays.Volume)), pixel_size)
    first, second = (as_volume(given, size, name) for given, name in ((a, name_a), (b, name_b)))
    refuse_other_size(pixel_size, first, name_a)
    check_same_grid(first, name_a, second, name_b)
    return Volume(first.to_numpy(), first.pixel_size), Volume(second.to_numpy(), second.pixel_size)
