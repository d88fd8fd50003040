"""Pure noise in place of a set's images: what a selection can make of nothing (the null control)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpirecon.io.particle_file import ParticleFile
from mpirecon.kernels import fft
from mpirecon.model.draws import particle_rng
from mpirecon.model.particles import TRUTH, ParticleSet
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.background import Background
from mpirecon.operators.ctf import ctf_at
from mpirecon.validate.fsc import friedel_weight, shell_count, shell_index

#: the lowest shells hold the mask and the box, which both half maps share
FIRST_SHELL = 6

#: largest mean half-map FSC beyond shell 5 that passes
LARGEST_MEAN = 0.02

#: in a small box the mean scatters more than that by chance; so many standard deviations of chance pass as well
_CHANCE = 3.0

#: zeros of a premultiplied image's CTF carry no noise to measure
_SMALLEST_CTF2 = 1e-3


class NoiseFile:
    """A particle file whose images are noise: same poses, CTFs and half sets, each image with its own power per shell.

    Each image's power per shell is measured when it is read, and noise of that spectrum is returned in its place: no
    images are kept. CTF-premultiplied images become noise times their CTF. What is drawn depends on (seed, particle)
    alone. Images that a reconstruction would refuse (NaN, constant) are passed on, so that they are treated alike.

    Anything else is asked of the wrapped ParticleFile; nothing is known to be a simulated error, for all is noise.
    """

    def __init__(self, file: ParticleFile, seed: int, background: Background | None = None) -> None:
        """background : taken off the images before their power is measured, if given"""
        self._wrapped, self._seed, self._background = file, seed, background
        n = file.box
        self._shell = shell_index(n, 2).astype(np.int64)
        self._multiplicity = np.broadcast_to(friedel_weight(n), self._shell.shape)
        self._premultiplied = bool(file.attributes["ctf_premultiplied"])

    def __getattr__(self, name: str):
        return getattr(self._wrapped, name)

    def __len__(self) -> int:
        return len(self._wrapped)

    has_truth = False

    def metadata(self, start: int = 0, stop: int | None = None) -> ParticleSet:
        """As ParticleFile.metadata, without simulated errors."""
        return replace(self._wrapped.metadata(start, stop), **dict.fromkeys(TRUTH))

    def images(self, rows) -> np.ndarray:
        """Noise for a slice or a sorted integer array of rows, (k, n, n) float32."""
        images = self._wrapped.images(rows)
        ids = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        ctf = self.ctf_of(ids) if self._premultiplied else None
        good = np.isfinite(images).all(axis=(1, 2)) & (np.ptp(images, axis=(1, 2)) > 0)
        if self._background is not None:
            images[good] = self._background.without(images[good])
        for number, particle in enumerate(ids):
            if good[number]:
                images[number] = self._noise(images[number], int(particle), None if ctf is None else ctf[number])
        return images

    def _noise(self, image: np.ndarray, particle: int, ctf: np.ndarray | None) -> np.ndarray:
        n = image.shape[0]
        white = particle_rng(self._seed, particle, "null").standard_normal((n, n), dtype=np.float32)
        spectrum = fft.rfft2(white, norm="ortho")
        amplitude = np.sqrt(self._power(fft.rfft2(image, norm="ortho"), ctf))[self._shell]
        if ctf is not None:
            amplitude = amplitude * ctf
        return fft.irfft2(spectrum * amplitude, s=(n, n), norm="ortho")

    def _power(self, spectrum: np.ndarray, ctf: np.ndarray | None) -> np.ndarray:
        """Noise power per shell, corners included; of premultiplied images per C², their noise having that variance."""
        worth = self._multiplicity if ctf is None else self._multiplicity * np.maximum(ctf**2, _SMALLEST_CTF2)
        power = (spectrum.real**2 + spectrum.imag**2) * self._multiplicity
        total, count = (np.bincount(self._shell.ravel(), values.ravel()) for values in (power, worth))
        return total / np.maximum(count, 1e-30)

    def ctf_of(self, rows: np.ndarray) -> np.ndarray:
        """CTFs over the whole half transform, (k, n, n // 2 + 1) float32."""
        n = self.box
        first, stop = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        particles = self._wrapped.metadata(first, stop)[rows - first]
        ky, kx = np.meshgrid(fft.fftfreq(n, 1.0 / n), np.arange(n // 2 + 1), indexing="ij")
        kx, ky = (k.ravel().astype(np.int32) for k in (kx, ky))
        optics = OpticsPlanes.of(self._wrapped.aberrations(), kx, ky, n, self.pixel_size)
        out = ctf_at(particles.ctf, kx, ky, n, self.pixel_size, optics, particles.optics_group)
        return out.reshape(len(rows), n, n // 2 + 1)


@dataclass(frozen=True)
class NullVerdict:
    """The mean half-map FSC of pure noise beyond shell 5, and whether it is no more than chance.

    mean, mean_unmasked : over the shells
    chance : its standard deviation for half maps of independent noise
    limit : largest |mean| that passes
    first, last : shells
    passed : bool
    """

    mean: float
    mean_unmasked: float
    chance: float
    limit: float
    first: int
    last: int

    @property
    def passed(self) -> bool:
        return abs(self.mean) <= self.limit

    def sentence(self) -> str:
        """The verdict in words."""
        number = f"the mean half-map FSC of pure noise beyond shell {self.first - 1} is {self.mean:+.4f}"
        if self.passed:
            return f"{number}, within ±{self.limit:.3g}: this selection makes no resolution"
        return f"{number}, beyond ±{self.limit:.3g}: this selection makes resolution out of nothing"


def assess(
    masked: np.ndarray, unmasked: np.ndarray, box: int, volume_share: float, last: int | None = None
) -> NullVerdict:
    """From the half-map FSC curves of a null run, (box // 2 + 1,) each.

    volume_share : fraction of the box that the mask m leaves, (mean m²)² / mean m⁴, and so of the Fourier samples that
        are independent
    last : finest shell that was reconstructed, the last of the curve when left out
    """
    last = len(masked) - 1 if last is None else min(last, len(masked) - 1)
    first = min(FIRST_SHELL, last)
    shells = slice(first, last + 1)
    # the FSC of n independent real numbers scatters by 1/√n; a shell of N complex samples in Friedel pairs holds N
    independent = np.maximum(shell_count(box)[shells] * volume_share, 1)
    chance = float(np.sqrt((1 / independent).sum()) / len(independent))
    limit = max(LARGEST_MEAN, _CHANCE * chance)
    return NullVerdict(float(masked[shells].mean()), float(unmasked[shells].mean()), chance, limit, first, last)
