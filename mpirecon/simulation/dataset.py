"""A particle file made from a volume: images C S P x · contrast + white noise, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.model.draws import particle_rng
from mpirecon.model.simulated_errors import copied, count_kinds, in_words, others_in_words
from mpirecon.model.pose import Pose
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.ctf import ctf_at
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.draws import DrawnParticles, draw_particles
from mpirecon.simulation.settings import SimulationSettings
from mpirecon.simulation.surroundings import (
    backgrounds, colour, conformations, micrographs, moved, neighbours, noise_exponents, plane,
)  # fmt: skip

SNR_DEFINITION = (
    "variance over all pixels of the noiseless images (CTF and contrast applied, before any CTF premultiplication), "
    "divided by the variance of the noise per pixel; both averaged over the set, junk left out"
)

#: particles that are only drawn to calibrate the noise: ids that no particle file reaches
_CALIBRATION = 2**62 + np.arange(256)

BATCH_PIXELS = 2**22


@dataclass(frozen=True)
class SimulationResult:
    """What was made: counts (planted: of each kind of error),
    the mean noise standard deviation and the mean signal variance per pixel."""

    box: int
    pixel_size: float
    particles: int
    junk: int
    wrong_poses: int
    planted: dict[str, int]
    noise_sigma: float
    signal_variance: float

    def __str__(self) -> str:
        others = others_in_words(self.planted)
        return (
            f"{self.particles} particles, box {self.box}, {self.pixel_size:g} Å/px, {self.wrong_poses} with a wrong "
            f"pose{in_words(self.planted, self.wrong_poses)}, {self.junk} junk{others and ', '}{others}; noise "
            f"standard deviation {self.noise_sigma:.4g}, signal {math.sqrt(self.signal_variance):.4g} per pixel"
        )


class Simulator:
    """Images of simulated particles of one volume.

    Parameters
    ----------
    volume : (n, n, n) float32, band-limited below Nyquist
    pixel_size : float, Å
    settings : SimulationSettings
    second : (n, n, n) float32, the map of the second conformation, where there is one

    Attributes
    ----------
    signal_variance : float
        mean over 256 calibration particles, which depend on the seed alone: never on the number of particles
    noise_sigma : float
        mean standard deviation of the noise per pixel
    """

    def __init__(
        self, volume: np.ndarray, pixel_size: float, settings: SimulationSettings, second: np.ndarray | None = None
    ) -> None:
        self.box, self.pixel_size, self.settings = volume.shape[0], float(pixel_size), settings
        self.forward = ForwardModel(self.box, self.pixel_size, taps=6)
        if settings.second_fraction and second is None:
            raise UserError("--second-fraction needs the map of the second conformation")
        self.prepared = [self.forward.prepare(one) for one in (volume, second) if one is not None]
        self._colours = [colour(self.box, exponent)
                         for exponent in noise_exponents(settings)] if settings.noise_colour else None
        self.batch = max(1, BATCH_PIXELS // self.box**2)
        self.signal_variance = self._calibrate()
        # the mean of f² is 1 + cv² for factors of mean 1
        spread = (1 + settings.scale_cv**2) / (1 + settings.noise_cv**2)
        self.noise_sigma = math.sqrt(self.signal_variance * spread / settings.snr)
        self._check_range()

    def draw(self, ids: np.ndarray) -> DrawnParticles:
        """Everything about these particles but their pixels."""
        return draw_particles(self.settings, self.box, self.pixel_size, ids)

    def images(self, drawn: DrawnParticles) -> np.ndarray:
        """(m, n, n) float32 images of drawn particles."""
        images = self._signal(drawn)
        images *= np.where(drawn.junk, 0, drawn.scale).astype(np.float32)[:, None, None]
        self._add_neighbours(images, drawn)
        if self.noise_sigma > 0:
            for image, particle, factor in zip(images, drawn.particles.ids, drawn.noise_factor):
                rng = particle_rng(self.settings.seed, int(particle), "noise")
                white = rng.standard_normal(image.shape, dtype=np.float32)
                image += np.float32(self.noise_sigma * factor) * self._coloured(white, int(particle))
        if self.settings.background:
            for image, values in zip(images, backgrounds(self.settings, drawn.particles.ids)):
                image += np.float32(self.noise_sigma) * plane(self.box, *values)
        if self.settings.ctf_premultiplied:
            images = multiply_by_ctf(images, drawn.particles.ctf, self.pixel_size)
        if self.settings.ctf_phase_flipped:
            images = multiply_by_ctf(images, drawn.particles.ctf, self.pixel_size, sign_only=True)
        return images

    def _signal(self, drawn: DrawnParticles) -> np.ndarray:
        ctf = drawn.true_ctf if self.settings.use_ctf else None
        which = conformations(self.settings, drawn.particles.ids) - 1
        if not which.any():
            return self.forward.images(self.prepared[0], drawn.true_pose, ctf)
        images = np.empty((len(drawn), self.box, self.box), np.float32)
        for number, prepared in enumerate(self.prepared):
            rows = np.flatnonzero(which == number)
            if len(rows):
                images[rows] = self.forward.images(prepared, drawn.true_pose[rows], None if ctf is None else ctf[rows])
        return images

    def _add_neighbours(self, images: np.ndarray, drawn: DrawnParticles) -> None:
        """Particles of the first map, cut off at the box, with the image's CTF and contrast."""
        there, quaternion, centre = neighbours(self.settings, drawn.particles.ids, self.box)
        rows = np.flatnonzero(there)
        if not len(rows):
            return
        ctf = drawn.true_ctf[rows] if self.settings.use_ctf else None
        shown = self.forward.images(self.prepared[0], Pose(quaternion[rows], np.zeros((len(rows), 2))), ctf)
        for row, image in zip(rows, shown):
            images[row] += np.float32(drawn.scale[row]) * moved(image, *centre[row])

    def _coloured(self, white: np.ndarray, particle: int) -> np.ndarray:
        if self._colours is None:
            return white
        factors = self._colours[particle % self.settings.micrographs]
        return fft.irfft2(fft.rfft2(white) * factors, s=white.shape)

    def _calibrate(self) -> float:
        rows = np.array_split(_CALIBRATION, -(-len(_CALIBRATION) // self.batch))
        variance = [self._signal(self.draw(ids)).var(axis=(1, 2), dtype=np.float64) for ids in rows]
        return float(np.concatenate(variance).mean())

    def _check_range(self) -> None:
        if not math.isfinite(self.signal_variance):
            raise UserError("voxels of the map are no finite numbers (NaN or infinite): nothing can be simulated from "
                            "it")
        if not self.signal_variance > 0:
            raise UserError("the images of this volume are blank: it holds no density")
        level = math.sqrt(self.signal_variance + self.noise_sigma**2)
        if self.settings.dtype == "float16" and not 1e-2 < level < 1e3:
            raise UserError(
                f"--dtype float16 cannot hold these images: their standard deviation is {level:.3g}, expected 0.01 … "
                "1000; use --dtype float32, or scale the map"
            )


def simulate(
    volume: np.ndarray,
    pixel_size: float,
    settings: SimulationSettings,
    path,
    *,
    second: np.ndarray | None = None,
    overwrite: bool = False,
    provenance: dict | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> SimulationResult:
    """Write a particle file of simulated images of a (n, n, n) volume; memory does not grow with the set's images.

    second : the map of the second conformation, (n, n, n) float32, where one is asked for

    ``/junk`` (bool), ``/true_scale`` and ``/true_sigma`` (float64) record what each image was made with;
    ``/pose_error``, ``/true_quaternion`` and more of ParticleSet's TRUTH are there where errors or junk were simulated.
    `progress` gets the images of each batch.

    Raises
    ------
    UserError
        when the volume is blank, or the file exists (without `overwrite`) or cannot be written.
    """
    from mpirecon.io.particle_writer import ParticleWriter

    simulator = Simulator(volume, pixel_size, settings, second)
    drawn, family = _with_copies(simulator.draw(np.arange(settings.particles)), settings)
    writer = ParticleWriter(
        path,
        len(drawn),
        simulator.box,
        simulator.pixel_size,
        overwrite=overwrite,
        dtype=settings.dtype,
        ctf_premultiplied=settings.ctf_premultiplied,
        ctf_phase_flipped=settings.ctf_phase_flipped,
        provenance={**_provenance(simulator), **(provenance or {})},
    )
    with writer:
        writer.write_metadata(drawn.particles)
        writer.write_extra("junk", drawn.junk)
        writer.write_extra("true_scale", np.where(drawn.junk, 0.0, drawn.scale))
        writer.write_extra("true_sigma", simulator.noise_sigma * drawn.noise_factor)
        for name, values in _surroundings(simulator, drawn.particles.ids).items():
            writer.write_extra(name, values)
        if family is not None:
            writer.write_extra("family", family)
        for start in range(0, len(drawn), simulator.batch):
            images = simulator.images(drawn[start : start + simulator.batch])
            writer.write_images(start, images.astype(settings.dtype, copy=False))
            progress(len(images))
    return SimulationResult(
        simulator.box,
        simulator.pixel_size,
        len(drawn),
        int(drawn.junk.sum()),
        int(drawn.wrong_pose.sum()),
        count_kinds(drawn.particles),
        simulator.noise_sigma,
        simulator.signal_variance,
    )


def _surroundings(simulator: Simulator, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of what was asked for: names of datasets → values of these particles."""
    settings, found = simulator.settings, {}
    if settings.second_fraction:
        found["conformation"] = conformations(settings, ids)
    if settings.noise_colour:
        found["true_micrograph"] = micrographs(settings, ids)
        found["true_noise_colour"] = noise_exponents(settings)[found["true_micrograph"]]
    if settings.neighbour_rate:
        found["neighbour"] = neighbours(settings, ids, simulator.box)[0]
    if settings.background:
        found["true_background"] = simulator.noise_sigma * backgrounds(settings, ids)
    return found


def _with_copies(drawn: DrawnParticles, settings: SimulationSettings) -> tuple[DrawnParticles, np.ndarray | None]:
    """The particles 0 … m − 1 with the simulated duplicates behind them, in the other half set;
    and every row's particle."""
    if not settings.duplicate_rate:
        return drawn, None
    m, ids = len(drawn), drawn.particles.ids
    family = np.append(ids, ids[copied(settings, settings.seed, ids)])
    drawn = drawn[family]  # with their ids, by which their noise is drawn
    again = np.arange(len(family)) >= m
    half = np.where(again, 3 - drawn.particles.half, drawn.particles.half)
    particles = replace(drawn.particles, half=half, duplicate_of=np.where(again, family, -1))
    return replace(drawn, particles=particles), family


def multiply_by_ctf(
    images: np.ndarray, ctf: np.ndarray, pixel_size: float, aberrations=None, optics_group: np.ndarray | None = None,
    sign_only: bool = False,
) -> np.ndarray:
    """Multiply (m, n, n) images by their CTFs (or their signs) over the whole transform, corners too;
    (m, n, n) float32.

    aberrations : Aberrations of the images' optics groups (m,), whose even ones and magnification belong to the CTF
    """
    n = images.shape[-1]
    ky, kx = np.meshgrid(fft.fftfreq(n, 1.0 / n), np.arange(n // 2 + 1), indexing="ij")
    kx, ky = kx.ravel().astype(np.int32), ky.ravel().astype(np.int32)
    optics = None
    if aberrations is not None:  # a program that multiplies images knows nothing of the detector
        optics = OpticsPlanes.of(replace(aberrations, mtf=np.zeros((len(aberrations.group), 0))), kx, ky, n, pixel_size)
    values = ctf_at(ctf, kx, ky, n, pixel_size, optics, optics_group)
    if sign_only:
        values = np.where(values < 0, np.float32(-1), np.float32(1))
    transform = fft.rfft2(np.asarray(images, np.float32))
    transform *= values.reshape(transform.shape)
    return fft.irfft2(transform, s=(n, n)).astype(np.float32, copy=False)


def _provenance(simulator: Simulator) -> dict:
    """How the file was made; JSON has no infinity, so an infinite SNR is a word."""
    settings = asdict(simulator.settings)
    if math.isinf(settings["snr"]):
        settings["snr"] = "inf"
    return {
        "settings": settings,
        "snr_definition": SNR_DEFINITION,
        "noise_sigma": simulator.noise_sigma,
        "signal_variance": simulator.signal_variance,
    }
