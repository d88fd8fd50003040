"""Backgrounds, ramps and gains of a set's images in words and numbers:
how many images have them, and how large they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from mpirecon.io.image_copies import Spoilt, Twins
from mpirecon.io.image_scale import deviations, refuse_scale
from mpirecon.operators.background import SMALLEST_BOX, Background, Levels
from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.select import median
from mpirecon.robust.gains import Gains

#: noise deviations from which a background, and a ramp's rise across the image, are worth a word;
#: and a factor between gains
LARGE_BACKGROUND, LARGE_RAMP, LARGE_GAIN = 1.0, 2.0, 1.1

#: fraction of the images that noise may make differ in gain by more than that, and a factor that one alone is reported
#: from
_FEW_GAINS, _LARGE_ALONE = 0.01, 1.5

#: pixels this far from the background, in deviations of the noise, and so many times as far as in the typical image,
#: are dust
_DUST, _TIMES_TYPICAL = 50.0, 8.0

#: fraction of an image's power about its background that one pixel has in no image of a particle
_ONE_PIXEL = 0.2

#: images that an import examines more closely, to estimate gains from, and how many of a batch
_LOOKED_AT, _OF_BATCH = 2048, 256

#: every so many of these tell of what size their numbers are
_OF_SCALE = 8

#: where there is next to no noise, this fraction of the particle's own power is taken for its deviation
_OF_PARTICLE = 0.1


@dataclass(frozen=True)
class Found:
    """images : that have something · typical, largest : its size in these."""

    images: int
    typical: float
    largest: float


@dataclass(frozen=True)
class LevelsFound:
    """What was found in `total` images that could be measured: backgrounds and ramps in standard deviations of the
    noise, and factors by which images are scaled."""

    total: int
    background: Found
    ramp: Found
    gain: Found

    @classmethod
    def of(cls, comm: Communicator, levels: Levels, factor: np.ndarray, gains: Gains | None) -> LevelsFound:
        """Of all ranks' images: levels and factor are this rank's own (m,). Collective."""
        usable = np.isfinite(levels.plane).all(axis=1) & (levels.sigma > 0)
        plane, sigma, factor = levels.plane[usable], levels.sigma[usable], factor[usable]
        least = 1.0 if gains is None else max(1.0, _OF_PARTICLE * gains.middle**0.5 / gains.typical)
        level, ramp = np.abs(plane[:, 0]) / sigma, 2 * np.hypot(plane[:, 1], plane[:, 2]) / sigma
        gain = np.exp(np.abs(np.log(factor)))
        return cls(
            comm.allreduce_scalar(len(sigma)),
            *(_found(comm, sizes, large) for sizes, large in (
                (level, LARGE_BACKGROUND * least), (ramp, LARGE_RAMP * least), (gain, LARGE_GAIN),
            )),
        )  # fmt: skip

    def as_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def of_dict(cls, known: dict) -> LevelsFound:
        return cls(known["total"], *(Found(**known[name]) for name in ("background", "ramp", "gain")))

    def sentences(self, what_becomes_of_it: str, of_gains: str, sampled: bool = False) -> list[str]:
        """One for each kind that some images have; what is done about the first two, and about gains."""
        texts, of = [], f"of {self.total} images" + (" that were checked" if sampled else "")
        if (found := self.background).images:
            texts.append(f"{found.images} {of} are not normalised: outside the particle their mean lies {_size(found)} "
                        f"standard deviations of the noise from zero; {what_becomes_of_it}")
        if (found := self.ramp).images:
            texts.append(f"{found.images} {of} have a ramp: their background rises by {_size(found)} standard "
                        f"deviations of the noise across the image; {what_becomes_of_it}")
        found = self.gain
        if found.images > _FEW_GAINS * self.total or found.largest > _LARGE_ALONE:
            texts.append(f"{found.images} {of} differ in gain, signal and noise together, from the typical one by "
                        f"factors of {_size(found)}; {of_gains}")
        return texts


class LevelsSurvey:
    """What an import learns of its images as it reads them: `add` each batch, then ask for the `warnings`."""

    def __init__(self, files: np.ndarray) -> None:
        """files : (stacks,) int64, the number of the file that each stack is"""
        self._files, self._twins, self._spoilt = files, Twins(), Spoilt()
        self._backgrounds: dict[int, Background] = {}
        self._levels: list[Levels] = []
        self._looked: list[np.ndarray] = []
        self._deviations: list[np.ndarray] = []
        self._peaks: list[np.ndarray] = []
        self._alone: list[np.ndarray] = []
        self._count = 0

    def add(self, images: np.ndarray, stack: int, numbers: np.ndarray) -> None:
        """images : (m, n, n), as they are in their stack, of which they have these numbers (m,); sets may have several
        n. Very small ones are not measured."""
        box = images.shape[-1]
        if box < SMALLEST_BOX:
            return
        if box not in self._backgrounds:
            self._backgrounds[box] = Background(box)
        background = self._backgrounds[box]
        levels = background.measure(images)
        self._levels.append(levels)
        self._twins.add(images, levels, self._files[stack], numbers)
        self._spoilt.add(images)
        peaks, alone = _peaks(images, levels)
        self._peaks.append(peaks)
        self._alone.append(alone)
        room = max(0, _LOOKED_AT - self._count)
        if room and len(images):
            some = images[np.unique(np.linspace(0, len(images) - 1, min(room, _OF_BATCH)).astype(np.int64))]
            with np.errstate(over="ignore"):  # damaged images are refused as such
                self._looked.append(look_at(background, np.asarray(some, np.float32)))
            self._deviations.append(deviations(some[::_OF_SCALE]))
            self._count += len(some)

    def refuse_scale(self, comm: Communicator, what: str) -> None:
        """Raise UserError, which begins with `what`, where no map can be calculated of numbers as small, or large, as
        those of the images of all ranks. Collective."""
        refuse_scale(what, np.concatenate([np.zeros(0), *(some for rank in comm.allgather(self._deviations)
                                                          for some in rank)]))

    def warnings(self, comm: Communicator, premultiplied: bool, sampled: bool = False) -> list[str]:
        """Sentences about the images of all ranks;
        `premultiplied` : by their CTFs, `sampled` : they are some of the set's. Collective."""
        looked = np.concatenate([np.zeros((0, 4)), *(some for rank in comm.allgather(self._looked) for some in rank)])
        gains = Gains.of(looked[:, 0], looked[:, 1:3], looked[:, 3], premultiplied)
        levels = Levels(*(np.concatenate([empty, *(getattr(some, name) for some in self._levels)])
                          for name, empty in (("plane", np.zeros((0, 3))), ("sigma", np.zeros(0)))))  # fmt: skip
        factor = np.ones(len(levels)) if gains is None else gains.factor_by_noise(levels.sigma)
        found = LevelsFound.of(comm, levels, factor, gains)
        texts = found.sentences(
            "reconstruct takes it off (--normalise)", "reconstruct brings them to one (--normalise)", sampled
        )
        texts += self._dust(comm, sampled) + self._spoilt.warnings(comm)
        return texts if sampled else texts + self._twins.warnings(comm)

    def _dust(self, comm: Communicator, sampled: bool) -> list[str]:
        """A sentence where pixels of some images lie far outside of what the others have."""
        peaks = np.concatenate([np.zeros(0), *self._peaks])
        total = comm.allreduce_scalar(len(peaks))
        if not total:
            return []
        alone = np.concatenate([np.zeros(0, bool), *self._alone])
        # of the typical image a hot pixel may be a part
        beyond = (peaks > _TIMES_TYPICAL * median(comm, peaks)) | alone
        found = _found(comm, peaks[beyond], _DUST)
        if not found.images:
            return []
        return [f"{found.images} of {total} images" + (" that were checked" if sampled else "")
                + f" have pixels {_size(found)} standard deviations of the noise from their background (dust, hot "
                "pixels); they are not corrected, and affect --loss l2 and sorted: replace them (relion_preprocess "
                "--white_dust 5 --black_dust 5), or use --loss posterior"]


def look_at(background: Background, images: np.ndarray) -> np.ndarray:
    """What Gains is made of: sigma, both halves and the middle of each image, (m, 4) float64;
    images that are not finite are left out."""
    images = images[np.isfinite(images).all(axis=(1, 2))]
    levels = background.measure(images)
    return np.column_stack([levels.sigma, background.halves(images, levels), background.middle(images, levels)])


def _peaks(images: np.ndarray, levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """How far the farthest pixel of each image lies from its background, in deviations of the noise, at least; and
    whether it has most of the image's power; of those that are finite."""
    low, high = (pick(images, axis=(1, 2)).astype(np.float64) for pick in (np.min, np.max))
    level, rise = levels.plane[:, 0], np.abs(levels.plane[:, 1:]).sum(axis=1)
    used = np.isfinite(low) & np.isfinite(high) & np.isfinite(levels.plane).all(axis=1) & (levels.sigma > 0)
    peak = np.maximum(high[used] - level[used], level[used] - low[used]) - rise[used]
    spread = images[used].std(axis=(1, 2), dtype=np.float64)
    return peak / levels.sigma[used], np.square(np.maximum(peak, 0)) > _ONE_PIXEL * images[0].size * np.square(spread)


def _found(comm: Communicator, sizes: np.ndarray, large: float) -> Found:
    these = sizes[sizes > large]
    count = comm.allreduce_scalar(len(these))
    if not count:
        return Found(0, 0.0, 0.0)
    return Found(count, float(median(comm, these)), float(comm.allreduce_scalar(float(these.max(initial=0.0)), "max")))


def _size(found: Found) -> str:
    typical, largest = f"{found.typical:.3g}", f"{found.largest:.3g}"
    return typical if typical == largest else f"{typical} (median; at most {largest})"
