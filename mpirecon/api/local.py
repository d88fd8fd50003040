"""Local resolution in scripts and notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpirecon.api.agreement import same_on_all
from mpirecon.api.arguments import as_communicator
from mpirecon.api.maps import Volume, alike
from mpirecon.api.masks import mask_for
from mpirecon.kinds import Count, Positive, Seed, Share, checked
from mpirecon.parallel.comm import run_together
from mpirecon.validate import local_resolution as local
from mpirecon.validate.local_files import sharpening
from mpirecon.validate.windows import WindowOptions


@dataclass(frozen=True)
class LocalResolution:
    """The local resolution of two half maps; shows itself in a notebook.

    Attributes
    ----------
    volume : Volume
        Å at each voxel; `min_resolution` where there is none, 0 where no window reaches, or the mask is 0
    filtered : Volume
        mean of the half maps, filtered place by place for the resolution there
    median : float or None
        Å, of the voxels where the mask is at least one half (without a mask: that a window reaches);
        None where there is none
    centres : (m, 3) int64
        voxels (z, y, x) in the middle of the windows
    resolution : (m,) float64
        Å in each window, NaN where there is none
    summary : dict
        quantiles, histogram, options, seconds, memory
    warnings : tuple of str
    """

    volume: Volume
    filtered: Volume
    median: float | None
    centres: np.ndarray = field(repr=False)
    resolution: np.ndarray = field(repr=False)
    summary: dict = field(repr=False)
    warnings: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        from mpirecon.report.local_resolution import notebook

        maps = {"locres": self.volume.to_numpy(), "locres_filtered": self.filtered.to_numpy()}
        return notebook(maps, self.summary, self.volume.pixel_size)


@checked
def local_resolution(
    half1, half2, mask=None, *, sampling: Positive | None = None, radius: Positive | None = None,
    edge: Positive | None = None, randomise_from: Positive | None = None, min_resolution: Positive = 50.0,
    threshold: Share = 0.143, bfactor: float | None = None, pixel_size: Positive | None = None, seed: Seed = 1,
    threads: Count = 1, comm=None,
) -> LocalResolution:
    """FSC of two unmasked half maps in soft spheres all over the box (Cardone, Heymann & Steven 2013), as
    relion_postprocess --locres.

    Parameters
    ----------
    half1, half2, mask : Volume, path or (n, n, n) array
        without a mask the whole sphere that the box holds is used
    sampling, radius, edge : float
        Å: between spheres (default 25, at most a quarter of the box), of each (default half the sampling), of its soft
        edge (default the sampling)
    randomise_from : float
        Å from which on phases are random in the maps that correct for the sphere (default 25, at most half the box)
    min_resolution : float
        Å: what is coarser, or no more than chance, counts as no resolution
    threshold : float
        of the FSC
    bfactor : float
        Å², of the filtered map; negative sharpens; default none
    pixel_size : float
        Å, where the maps are arrays
    seed : int
        of the random phases
    threads : int
        of each rank
    comm : Communicator or mpi4py communicator
        whose ranks share the spheres; all of them call this, with the same maps

    Returns
    -------
    LocalResolution
        map, filtered map, and a value for each window

    Raises
    ------
    UserError
        when the maps do not fit each other, are constant or not finite, or an option makes no sense for them.
    """
    comm = as_communicator(comm)
    same_on_all(comm, half1=half1, half2=half2, mask=mask, sampling=sampling, radius=radius, edge=edge,
                randomise_from=randomise_from, min_resolution=min_resolution, threshold=threshold, bfactor=bfactor,
                pixel_size=pixel_size, seed=seed)
    first, second, given = run_together(comm, lambda: _given(half1, half2, mask, pixel_size))
    options = WindowOptions(sampling, radius, edge, randomise_from, min_resolution, threshold)
    gain = None if bfactor is None else sharpening(first.box, first.pixel_size, bfactor)
    found = local.local_resolution(first.to_numpy(), second.to_numpy(), first.pixel_size, mask=given, options=options,
                                   gain=gain, seed=seed,
                                   threads=threads, comm=comm)  # fmt: skip
    numbers = found.as_dict()
    return LocalResolution(Volume(found.map, found.pixel_size), Volume(found.filtered, found.pixel_size),
                           numbers["median"], found.centres,
                           found.resolution, numbers, found.warnings)  # fmt: skip


def _given(half1, half2, mask, pixel_size) -> tuple[Volume, Volume, np.ndarray | None]:
    """The half maps and the mask's voxels."""
    first, second = alike(half1, half2, pixel_size, "half map 1", "half map 2")
    if mask is None:
        return first, second, None
    return first, second, mask_for(mask, first, "half map 1")
