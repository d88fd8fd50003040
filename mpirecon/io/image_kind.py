"""What the images themselves say about their CTF:
whether they were multiplied by it, or by its sign, and which way contrast goes.

A sample of the images is compared with the CTFs and poses of the table, in NumPy and in seconds:

- Noise. White noise has the same power at the zeros of the CTF as beside them; in CTF-premultiplied images it has none
there.
- Signal. Low-resolution maps of either half of the sample predict the images of the other half, as C·P (images as they
were
  taken), |C|·P (phase-flipped) or C²·P (premultiplied). What predicts best is what they are: signs tell where noise
  does not.
- Contrast. The density of a particle stands out from the solvent to one side: that of protein must be the brighter one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mpirecon.io.image_places import PlaceSample
from mpirecon.io.low_maps import HalfMaps, transform_of
from mpirecon.io.mrc import LARGEST
from mpirecon.io.particle_table import ParticleTable
from mpirecon.kernels import fft
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.parallel.comm import Communicator, together

#: how images may carry their CTF
UNTOUCHED, FLIPPED, PREMULTIPLIED = KINDS = ("untouched", "phase-flipped", "CTF-premultiplied")

_FINEST = 8.0  # Å: maps of the sample reach no further
_SHELLS = (12, 40)  # fewest and most shells of them
_FIRST = 2  # shells below are background and what normalisation left
_MIDDLE = 1  # shells up to here have the sign of a particle in the middle, however much of the box it fills
_LOW, _HIGH = 0.03, 0.4  # squared sines that count as zeros of the CTF, and as far from them
_ENOUGH = 100  # samples of a shell on either side


_MOST_IMAGES, _MOST_BYTES = 1000, 128 * 2**20  # of the sample
_MOST_SAMPLES = 2_000_000  # that a rank measures noise in
_BATCH_PIXELS = 2**21  # transformed at a time

#: power at the CTF's zeros below and above which images are, and are not, premultiplied
_PREMULTIPLIED_FLOOR, _WHITE_FLOOR = 0.15, 0.6

#: standard deviations that are no chance, and fractions of predicted power that a misfit of CTFs does not reach
_SURE = 5.0
_SURELY_SEEN, _AGREED = 8.0, 0.4
_FEW = 50  # fewer images than these do not tell by what they predict of each other
_SMALLEST = 16  # pixels a side that tell anything
_OPTIONS = {
    UNTOUCHED: "--no-ctf-premultiplied --no-ctf-phase-flipped", FLIPPED: "--ctf-phase-flipped",
    PREMULTIPLIED: "--ctf-premultiplied",
}


@dataclass
class Evidence:
    """floor : power at the CTF's zeros over that beside them, 0 where it follows C², 1 where it does not care; nan: no
    zeros
    images : how many
    gains : of KINDS, fraction of the images' power that the other half's map predicts
    sigmas : how surely each predicts better than the kind that the table says, in standard deviations
    brightness : of the middle of the images against their surroundings, as the CTF has it, in standard deviations
    skewness : of the map's density
    seen : standard deviations by which more is seen of the middles than chance, of whatever sign
    agreed : fraction of that which has one sign in all images
    """

    images: int
    floor: float
    gains: dict[str, float]
    sigmas: dict[str, float]
    brightness: float
    skewness: float
    seen: float = 0.0
    agreed: float = 1.0

    def verdict(self, stated: str) -> tuple[str, str] | None:
        """(kind that the images are by all appearance, why) where that is not what was stated;
        None where nothing speaks against it.

        Where noise follows the CTF, images are premultiplied, unless signal alone is in them, whose signs then tell.
        """
        follows, white = self.floor < _PREMULTIPLIED_FLOOR, self.floor > _WHITE_FLOOR
        noise = f"their power at the zeros of the CTF is {100 * max(self.floor, 0):.0f} % of that beside them"
        if stated == PREMULTIPLIED:
            if white:
                return (FLIPPED if self.gains[FLIPPED] > 1.03 * self.gains[UNTOUCHED] else UNTOUCHED), noise
            better = self._better(stated, UNTOUCHED, 1.3)
            return better or (None if white else self._better(stated, FLIPPED, 1.02, 10.0))
        other = FLIPPED if stated == UNTOUCHED else UNTOUCHED
        no_worse = self.sigmas[PREMULTIPLIED] > -3.0 and not (
            self.sigmas[other] > _SURE and self.gains[other] > self.gains[PREMULTIPLIED])
        if follows and no_worse and self.images >= _FEW:
            return PREMULTIPLIED, noise
        return self._better(stated, other, 1.03)

    def _better(self, stated: str, kind: str, ratio: float, sure: float = _SURE) -> tuple[str, str] | None:
        """A kind that predicts one half of the images from the other much better than what was stated."""
        if self.images < _FEW or self.sigmas[kind] <= sure or self.gains[kind] <= ratio * self.gains[stated]:
            return None
        more = f"{self.gains[kind] / self.gains[stated]:.2f} times as much of" if self.gains[stated] > 0 else "more of"
        return (
            kind,
            f"a map of one half of them made that way predicts {more} the other half ({self.sigmas[kind]:.0f} standard "
            "deviations)",
        )

    @property
    def inverted(self) -> bool:
        """Whether the particles are dark where bright ones were stated."""
        return self.brightness < -_SURE and self.skewness < 0

    @property
    def of_both_signs(self) -> bool:
        """Whether about as many particles are dark as are bright."""
        return self.images >= _FEW and self.seen > _SURELY_SEEN and abs(self.agreed) < _AGREED


def warnings_of(evidence: Evidence, stated: str, contrast: str) -> list[str]:
    """Sentences where images speak against the table, with the options that help."""
    said = []
    found = evidence.verdict(stated)
    if found is not None:
        kind, why = found
        said.append(f"the images look {kind}, and are taken as {stated}: {why}. If so, give {_OPTIONS[kind]} (or the "
                    "CTFs are not those of these images)")
    if evidence.of_both_signs:
        said.append("the particles look bright in some of the images and dark in others: these cancel each other in a "
                    "map. Turn the sign of those of one kind, or import them apart (--select), the dark ones with "
                    "--contrast black")
    if evidence.inverted:
        other = "black" if contrast == "white" else "white"
        shade = {"white": "bright", "black": "dark"}
        said.append(f"the particles look {shade[other]} against their surroundings, and are taken as "
                    f"{shade[contrast]}: if protein is {shade[other]} in these images, give --contrast {other}")
    return said


def sampled_rows(total: int, box: int, first: int, count: int) -> np.ndarray:
    """Rows of a slab (first … first + count of `total`) that are in the sample, counted from its first; the same sample
    on any number of ranks."""
    most = min(total, _MOST_IMAGES, max(32, _MOST_BYTES // (4 * box * box)))
    rows = np.sort(np.random.default_rng(0).choice(total, most, replace=False, shuffle=False))
    return rows[(rows >= first) & (rows < first + count)] - first


def look_at_images(comm: Communicator, table: ParticleTable, box: int, contrast: str, batches: Iterable) -> list[str]:
    """Warnings of what a sample of images says against the table; collective.

    batches : pairs of rows of the table and their images (m, n, n), no image twice
    contrast : ``white`` or ``black``
    """
    if box < _SMALLEST:
        return []
    stated = PREMULTIPLIED if table.ctf_premultiplied else FLIPPED if table.ctf_phase_flipped else UNTOUCHED
    sample = ImageSample(comm, box, table.pixel_size, stated)
    places = PlaceSample(comm, box, table.pixel_size, flipped=stated == FLIPPED, multiplied=stated == PREMULTIPLIED)
    with together(comm):
        size = max(1, _BATCH_PIXELS // box**2)
        for rows, images in batches:
            for at in range(0, len(rows), size):
                some, bright = rows[at : at + size], images[at : at + size].astype(np.float32)
                with np.errstate(over="ignore", invalid="ignore"):  # images that are not finite are refused later
                    level = bright.std(axis=(1, 2), dtype=np.float64)
                good = (level > 0) & (level < LARGEST)
                some, bright = some[good], bright[good] * (-1 if contrast == "black" else 1)
                if not len(some):
                    continue
                if table.negate is not None:
                    bright[table.negate[some]] *= -1
                sample.add(bright, table.ctf[some], table.pose.shift[some], table.pose.matrices()[some])
                places.add(bright, table, some)
    return places.warnings() or warnings_of(sample.evidence(), stated, contrast)


class ImageSample:
    """Sums over sampled images of all ranks. box : pixels; pixel_size : Å; stated : which of KINDS the table says."""

    def __init__(self, comm: Communicator, box: int, pixel_size: float, stated: str) -> None:
        self.comm, self.box, self.pixel_size, self.stated = comm, box, pixel_size, stated
        ky, kx = np.meshgrid(np.fft.fftfreq(box, 1 / box), np.arange(box // 2 + 1), indexing="ij")
        radius = np.hypot(kx, ky)
        inside = (radius < box // 2) & ((kx > 0) | (ky > 0))
        self._inside = np.flatnonzero(inside)
        self.kx, self.ky = kx.ravel()[self._inside], ky.ravel()[self._inside]
        self.shell = np.rint(radius.ravel()[self._inside]).astype(np.int64)
        shells = int(np.clip(box * pixel_size / _FINEST, *_SHELLS))
        self.last = min(shells, box // 2 - 2)
        self.near = np.flatnonzero((self.shell >= _FIRST) & (self.shell <= self.last))
        self.middle = np.flatnonzero(self.shell <= _MIDDLE)
        # sums over images: of the middle's brightness, its square, what that has more than chance, its square; of b |b|
        self.bright = np.zeros(5)
        self.noise = np.zeros((4, box // 2 + 1))  # power and squared sine at zeros and beside them, per shell
        self.counts = np.zeros((2, box // 2 + 1))
        self.measured = 0
        self.spectra, self.ctf, self.matrices = [], [], []

    def add(self, images: np.ndarray, ctf: np.ndarray, shift: np.ndarray, matrices: np.ndarray) -> None:
        """images (m, n, n), ctf (m,) CTF_DTYPE, shift (m, 2) Å, matrices (m, 3, 3)."""
        images = np.asarray(images, np.float32)
        level = images.std(axis=(1, 2), dtype=np.float64)
        good = np.isfinite(level) & (level > 0)
        images, ctf, shift, matrices = images[good], ctf[good], shift[good], matrices[good]
        images = (images - images.mean(axis=(1, 2), keepdims=True)) / level[good, None, None]
        spectra = fft.rfft2(images).reshape(len(images), -1)[:, self._inside] / self.box
        sine, strength = self._ctf(ctf)
        if self.measured < _MOST_SAMPLES:
            self._add_noise(np.abs(spectra) ** 2, sine**2)
            self.measured += spectra.size
        self._add_brightness(self._centred(spectra, shift, self.middle), (sine * strength)[:, self.middle])
        self.spectra.append(self._centred(spectra, shift, self.near).astype(np.complex64))
        self.ctf.append((sine * strength)[:, self.near].astype(np.float32))
        self.matrices.append(matrices)

    def _ctf(self, ctf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(sine, scale times envelope) at all samples, (m, s) each."""
        c = ctf_coefficients(ctf, self.box, self.pixel_size)[:, :, None]
        x, y = self.kx, self.ky
        k2 = x * x + y * y
        turns = c[:, 0] * (x * x) + c[:, 1] * (x * y) + c[:, 2] * (y * y) + c[:, 3] * (k2 * k2) + c[:, 4]
        return np.sin(2 * np.pi * turns), c[:, 5] * np.exp(c[:, 6] * k2)

    def _centred(self, spectra: np.ndarray, shift: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Some samples with the particle, which sits `shift` from pixel box // 2, at the origin."""
        at = shift / self.pixel_size + self.box // 2
        return spectra[:, some] * np.exp(2j * np.pi / self.box * (at[:, :1] * self.kx[some]
                                                                  + at[:, 1:] * self.ky[some]))

    def _add_brightness(self, y: np.ndarray, c: np.ndarray) -> None:
        factor = {UNTOUCHED: c, FLIPPED: np.abs(c), PREMULTIPLIED: np.ones_like(c)}[self.stated]
        # noise has as much of both, a particle in the middle not
        each, chance = ((factor * part).sum(axis=1) for part in (y.real, y.imag))
        more = each**2 - chance**2
        self.bright += [each.sum(), (each**2).sum(), more.sum(), (more**2).sum(), (each * np.abs(each)).sum()]

    def _add_noise(self, power: np.ndarray, squared: np.ndarray) -> None:
        shells = self.noise.shape[1]
        shell = np.broadcast_to(self.shell, power.shape)
        for i, where in enumerate((squared < _LOW, squared > _HIGH)):
            self.counts[i] += np.bincount(shell[where], minlength=shells)
            self.noise[i] += np.bincount(shell[where], power[where], minlength=shells)
            self.noise[2 + i] += np.bincount(shell[where], squared[where], minlength=shells)

    def evidence(self) -> Evidence:
        """What the sampled images say; collective."""
        gains, sigmas, skewness = self._signal()
        bright = self.comm.allreduce(self.bright)
        images = self.comm.allreduce_scalar(sum(map(len, self.spectra)))
        seen = float(bright[2] / np.sqrt(max(bright[3], 1e-30)))
        # the first is also small where few images have a particle, the second where signs cancel alone
        agreed = max(abs(bright[0]) * bright[0] / max(images, 1), bright[4],
                     key=abs) / bright[2] if bright[2] > 0 else 1.0
        return Evidence(images, self._floor(), gains, sigmas, float(bright[0] / np.sqrt(max(bright[1], 1e-30))),
                        skewness, seen, float(agreed))

    def _floor(self) -> float:
        noise, counts = self.comm.allreduce(self.noise), self.comm.allreduce(self.counts)
        use = (counts > _ENOUGH).all(axis=0) & (np.arange(noise.shape[1]) >= _FIRST)
        if use.sum() < 3:
            return np.nan
        ratio, follows = ((a / counts[0, use]) / (b / counts[1, use]) for a,
                          b in (noise[[0, 1]][:, use], noise[[2, 3]][:, use]))
        return float(np.quantile((ratio - follows) / (1 - follows), 0.75))

    def _signal(self) -> tuple[dict, dict, float]:
        y = np.concatenate(self.spectra) if self.spectra else np.empty((0, len(self.near)), np.complex64)
        c = np.concatenate(self.ctf) if self.ctf else np.empty(y.shape, np.float32)
        matrices = np.concatenate(self.matrices) if self.matrices else np.empty((0, 3, 3))
        shell, total = self.shell[self.near], self.comm.allreduce_scalar(len(y))
        halves = HalfMaps(self.comm, self.kx[self.near], self.ky[self.near], shell, self.last, matrices,
                          np.arange(len(y)) % 2)
        y = halves.turned(y)
        power = self.comm.allreduce(np.bincount(shell, (np.abs(y) ** 2).sum(axis=0),
                                                minlength=self.last + 1).astype(np.float64))
        count = total * np.bincount(shell, minlength=self.last + 1)
        white = 1 / np.sqrt(np.maximum(power / np.maximum(count, 1), 1e-30))[shell]
        each = {}
        for kind in KINDS:
            factor, on = {UNTOUCHED: (c, c), FLIPPED: (np.abs(c), np.abs(c)),
                          PREMULTIPLIED: (np.ones_like(c), c * c)}[kind]
            maps = halves.maps(factor * y, c**2)
            each[kind] = halves.gains(y * white, halves.predicted(maps, on) * white)
            if kind == self.stated:
                skewness = self._skewness(sum(m[0] for m in maps), sum(m[1] for m in maps))
        gains = {kind: self.comm.allreduce_scalar(float(each[kind].sum())) / max(total, 1) / len(shell)
                 for kind in KINDS}
        sigmas = {}
        for kind in KINDS:
            better = each[kind] - each[self.stated]
            sums = self.comm.allreduce(np.array([better.sum(), (better**2).sum()]))
            spread = np.sqrt(max(sums[1] - sums[0] ** 2 / max(total, 1), 1e-30))
            sigmas[kind] = float(sums[0] / spread)
        return gains, sigmas, skewness

    def _skewness(self, numerator: np.ndarray, weight: np.ndarray) -> float:
        if not weight.any():
            return 0.0
        side = 2 * self.last + 3
        half = transform_of(numerator, weight).reshape((side,) * 3)[:, :, : self.last + 2]
        n = 2 * self.last + 2
        grid = np.zeros((n, n, self.last + 2), np.complex128)
        index = np.arange(-self.last - 1, self.last + 1)
        grid[np.ix_(index % n, index % n)] = half[:-1, :-1]
        density = fft.fftshift(fft.irfftn(grid, s=(n,) * 3))
        z, yy, x = np.indices(density.shape) - n // 2
        inside = density[x * x + yy * yy + z * z < (0.4 * n) ** 2]
        return float(((inside - inside.mean()) ** 3).mean() / inside.std() ** 3)
