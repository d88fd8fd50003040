"""Images without background and of one gain (--normalise), wherever a run reads them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from mpirecon.io.image_levels import look_at
from mpirecon.io.image_scale import deviations, refuse_scale
from mpirecon.operators.background import SMALLEST_BOX, Background, Levels
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.slab import slab
from mpirecon.robust.gains import Gains

AUTO, BACKGROUND, OFF = "auto", "background", "off"

#: what --normalise may be: background and gains, backgrounds alone, neither
NORMALISE = (AUTO, BACKGROUND, OFF)

#: pixels of the whole set that are read before the first pass, and the fewest and most images
_PIXELS, _FEWEST, _MOST = 2**23, 256, 4096

#: of those, read at a time
_BATCH = 64

#: every so many of them tell of what size their numbers are
_OF_SCALE = 8


@dataclass(frozen=True)
class Normaliser:
    """What is done to each image before it is transformed:
    its plane is subtracted, and it is brought to the typical gain.

    mode : of NORMALISE
    background : where it is found
    gains : of the set; None where they are not corrected
    """

    mode: str
    background: Background
    gains: Gains | None = None

    @classmethod
    def of(cls, comm: Communicator, file, mode: str, present: np.ndarray | None = None) -> Normaliser:
        """For the images of a particle file, of which some are read, the same ones however many ranks there are.
        Collective.

        present : (all particles,) bool, those that take part; None: all

        Raises
        ------
        UserError
            where no map can be calculated of numbers as small, or large, as those of the images.
        """
        background, there = Background(file.box), None if present is None else np.flatnonzero(present)
        total = len(file) if there is None else len(there)
        start, stop = slab(len(file), comm.size, comm.rank)
        some = min(total, int(np.clip(_PIXELS // file.box**2, _FEWEST, _MOST)))
        rows = np.unique(np.linspace(0, total - 1, some).astype(np.int64))
        rows = rows if there is None else there[rows]
        rows = rows[(rows >= start) & (rows < stop)]
        with together(comm):
            seen, spread = [], []
            for first in range(0, len(rows), _BATCH):
                images = file.images(rows[first : first + _BATCH])
                spread.append(deviations(images[::_OF_SCALE]))
                with np.errstate(over="ignore", invalid="ignore"):  # such images are refused below
                    seen.append(look_at(background, images))
        spread = [some for rank in comm.allgather(spread) for some in rank]
        refuse_scale(str(file.path), np.concatenate([np.zeros(0), *spread]))
        seen = np.concatenate([np.zeros((0, 4)), *(some for rank in comm.allgather(seen) for some in rank)])
        premultiplied = bool(file.attributes["ctf_premultiplied"])
        gains = Gains.of(seen[:, 0], seen[:, 1:3], seen[:, 3], premultiplied) if file.box >= SMALLEST_BOX else None
        return cls(mode, background, gains)

    def levels(self, images: np.ndarray) -> tuple[Levels, np.ndarray]:
        """(levels of (m, n, n) float32 images, the factors (m,) that bring them to one gain)."""
        levels = self.background.measure(images)
        factor = np.ones(len(images))
        if self.gains is not None:
            a, b, c = np.abs(levels.plane).T
            levels.plane *= self.gains.of_background(a + np.hypot(b, c), levels.sigma)[:, None]
        if self.gains is not None and self.mode != BACKGROUND:
            middle, asked = np.zeros(len(images)), self.gains.asks_middle(levels.sigma)
            if asked.any():
                middle[asked] = self.background.middle(images[asked], levels[asked])
            factor = self.gains.factor(levels.sigma, middle)
        return levels, factor

    def apply(self, images: np.ndarray, levels: Levels, factor: np.ndarray) -> None:
        """Do it to (m, n, n) float32 images, in place."""
        if self.mode != OFF:
            self.background.take_off(images, levels, factor)

    def __call__(self, images: np.ndarray) -> None:
        self.apply(images, *self.levels(images))

    def as_dict(self) -> dict:
        """What `of_summary` makes the same of."""
        return {"mode": self.mode, "gains": None if self.gains is None else asdict(self.gains)}

    @classmethod
    def of_summary(cls, summary: dict, box: int) -> Normaliser:
        """What a finished run did to its images; nothing, where its summary is from when none were normalised."""
        known = summary.get("normalisation") or {"mode": OFF, "gains": None}
        gains = known["gains"]
        return cls(known["mode"], Background(box), None if gains is None else Gains(**gains))
