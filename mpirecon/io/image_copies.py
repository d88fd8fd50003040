"""Images that an import should not trust: pixels that another image has as well, whole numbers of the wrong type,
areas without any contents."""

from __future__ import annotations

import numpy as np

from mpirecon.operators.background import Levels
from mpirecon.parallel.comm import Communicator

#: standard deviation of numbers that wrapped around, over that of what they were; and over all numbers of the type
_UNWRAPPED, _FILLS = 0.5, 0.25
#: fraction of pixels that are the least or greatest number of their type
_AT_LIMIT = 0.01
#: fraction of the middle of an image, a disc of half the box's diameter, that has one value where a part is blank
_BLANK = 0.15
#: images of a batch that are looked at
_SOME = 64


class Twins:
    """Images of one set of pixels under several names, as where a stack was written, or joined, twice."""

    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []

    def add(self, images: np.ndarray, levels: Levels, file: int, numbers: np.ndarray) -> None:
        """images (m, n, n) with their levels, of one file, where they have these numbers (m,)."""
        import pandas as pd  # slow to load, and a run of a particle file needs none

        with np.errstate(over="ignore", invalid="ignore"):
            measured = [images.min(axis=(1, 2)), images.max(axis=(1, 2)), images.std(axis=(1, 2), dtype=np.float64),
                        *levels.plane.T, levels.sigma]
            pixels = pd.DataFrame([values.astype(np.float32) for values in measured]).T
        names = pd.DataFrame({"file": np.full(len(numbers), file), "number": numbers})
        hashed = [pd.util.hash_pandas_object(table, index=False).to_numpy() for table in (pixels, names)]
        varied = pixels[0] < pixels[1]  # constant images have a warning of their own
        self._keys.append(np.stack(hashed, axis=1)[varied.to_numpy()])

    def warnings(self, comm: Communicator) -> list[str]:
        """A sentence where images of the ranks are the same; collective."""
        import pandas as pd

        keys = comm.gather(np.concatenate([np.zeros((0, 2), np.uint64), *self._keys]))
        if comm.rank == 0:
            known = pd.DataFrame(np.concatenate(keys)).drop_duplicates()
            count, total = int(known[0].duplicated().sum()), len(known)
        count, total = comm.bcast((count, total) if comm.rank == 0 else None)
        if not count:
            return []
        return [f"{count} of {total} images have the very pixels of another one, under another name: they count twice, "
                "and where the two are in both half sets the FSC is too good; leave the copies out of the table"]


class Spoilt:
    """Images of whole numbers that were written as, or are taken for, numbers of another type; images with blank
    parts."""

    def __init__(self) -> None:
        self._counts, self._blank = np.zeros(4, np.int64), np.zeros(2, np.int64)

    def add(self, images: np.ndarray) -> None:
        """images : (m, n, n), of which some are looked at."""
        if not len(images):
            return
        some = images[np.unique(np.linspace(0, len(images) - 1, min(len(images), _SOME)).astype(np.int64))]
        self._blank += [len(some), np.count_nonzero(_partly_blank(some))]
        if images.dtype.kind not in "iu":
            return
        limits = np.iinfo(some.dtype)
        other = some.view(f"{'u' if some.dtype.kind == 'i' else 'i'}{some.dtype.itemsize}")
        spread, unwrapped = (values.std(axis=(1, 2), dtype=np.float64) for values in (some, other))
        limit = ((some == limits.min) | (some == limits.max)) if some.dtype.kind == "i" else some == limits.max
        wrapped = unwrapped < _UNWRAPPED * spread
        cut = ~wrapped & (limit.mean(axis=(1, 2)) > _AT_LIMIT)
        full = ~wrapped & ~cut & (spread > _FILLS * (limits.max - limits.min))
        self._counts += [len(some), wrapped.sum(), full.sum(), cut.sum()]

    def warnings(self, comm: Communicator) -> list[str]:
        """Sentences about the images of all ranks; collective."""
        total, *counts = comm.allreduce(self._counts).tolist()
        words = (
            "are of whole numbers that jump from one end of their type to the other: by all appearance they are "
            "unsigned where the stack's header says signed, or the other way round; write the stack again as MRC mode "
            "2",
            "have whole numbers all over the range of their type, as after an overflow; scale the images before they "
            "are written, or write them as MRC mode 2",
            f"have more than {100 * _AT_LIMIT:g} % of their pixels at the greatest or least number of their type: they "
            "were cut off there; scale the images before they are written, or write them as MRC mode 2",
        )
        said = [f"{count} of {total} images that were checked {said}" for count, said in zip(counts, words) if count]
        total, blank = comm.allreduce(self._blank).tolist()
        if blank:
            said.append(f"{blank} of {total} images that were checked have a blank area, all of one value, in their "
                        "middle, where the particle is: a part of these images is missing; extract them again, or "
                        "leave them out of the table")
        return said


def _partly_blank(images: np.ndarray) -> np.ndarray:
    """Whether images (m, n, n) have an area of one value in their middle, (m,) bool. What surrounds the particle may be
    blank, as where images were masked, and all of it is where there is no image at all."""
    n = images.shape[-1]
    y, x = np.mgrid[:n, :n] - n // 2
    middle = (np.hypot(x, y) < n / 4)[:-1, :-1]
    corner = images[:, :-1, :-1]
    same = (corner == images[:, 1:, :-1]) & (corner == images[:, :-1, 1:]) & (corner == images[:, 1:, 1:])
    blank = same[:, middle].mean(axis=1)
    return (blank > _BLANK) & (images.min(axis=(1, 2)) < images.max(axis=(1, 2)))
