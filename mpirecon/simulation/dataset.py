"""A particle file made from a volume: images C S P x · contrast + white noise, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import scipy.fft

from mpirecon.errors import UserError
from mpirecon.model.draws import particle_rng
from mpirecon.model.planted import copied, count_kinds
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.ctf import ctf_at
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.draws import DrawnParticles, draw_particles
from mpirecon.simulation.settings import SimulationSettings

SNR_DEFINITION = (
    "variance over all pixels of the noiseless images (CTF and contrast applied, before any CTF premultiplication), "
    "divided by the variance of the noise per pixel; both averaged over the set, junk left out"
)

#: particles that are only drawn to calibrate the noise: ids that no particle file reaches
_CALIBRATION = 2**62 + np.arange(256)

_BATCH_PIXELS = 2**22


@dataclass(frozen=True)
class SimulationResult:
    """What was made: counts (planted: of each kind of error), the mean noise standard deviation and the mean signal variance per pixel."""

    particles: int
    junk: int
    wrong_poses: int
    planted: dict[str, int]
    noise_sigma: float
    signal_variance: float


class Simulator:
    """Images of simulated particles of one volume.

    Parameters
    ----------
    volume : (n, n, n) float32, band-limited below Nyquist
    pixel_size : float, Å
    settings : SimulationSettings

    Attributes
    ----------
    signal_variance : float
        mean over 256 calibration particles, which depend on the seed alone: never on the number of particles
    noise_sigma : float
        mean standard deviation of the noise per pixel
    """

    def __init__(self, volume: np.ndarray, pixel_size: float, settings: SimulationSettings) -> None:
        self.box, self.pixel_size, self.settings = volume.shape[0], float(pixel_size), settings
        self.forward = ForwardModel(self.box, self.pixel_size, taps=6)
        self.prepared = self.forward.prepare(volume)
        self.batch = max(1, _BATCH_PIXELS // self.box**2)
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
        if self.noise_sigma > 0:
            for image, particle, factor in zip(images, drawn.particles.ids, drawn.noise_factor):
                rng = particle_rng(self.settings.seed, int(particle), "noise")
                image += np.float32(self.noise_sigma * factor) * rng.standard_normal(image.shape, dtype=np.float32)
        if self.settings.ctf_premultiplied:
            images = multiply_by_ctf(images, drawn.particles.ctf, self.pixel_size)
        if self.settings.ctf_phase_flipped:
            images = multiply_by_ctf(images, drawn.particles.ctf, self.pixel_size, sign_only=True)
        return images

    def _signal(self, drawn: DrawnParticles) -> np.ndarray:
        ctf = drawn.true_ctf if self.settings.use_ctf else None
        return self.forward.images(self.prepared, drawn.true_pose, ctf)

    def _calibrate(self) -> float:
        rows = np.array_split(_CALIBRATION, -(-len(_CALIBRATION) // self.batch))
        variance = [self._signal(self.draw(ids)).var(axis=(1, 2), dtype=np.float64) for ids in rows]
        return float(np.concatenate(variance).mean())

    def _check_range(self) -> None:
        if not self.signal_variance > 0:
            raise UserError("the images of this volume are blank: it holds no density")
        level = math.sqrt(self.signal_variance + self.noise_sigma**2)
        if self.settings.dtype == "float16" and not 1e-2 < level < 1e3:
            raise UserError(
                f"--dtype float16 cannot hold these images: their standard deviation is {level:.3g}, expected "
                "0.01 … 1000; use --dtype float32, or scale the map"
            )


def simulate(
    volume: np.ndarray,
    pixel_size: float,
    settings: SimulationSettings,
    path,
    *,
    overwrite: bool = False,
    provenance: dict | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> SimulationResult:
    """Write a particle file of simulated images of a (n, n, n) volume; memory does not grow with the set's images.

    ``/junk`` (bool), ``/true_scale`` and ``/true_sigma`` (float64) tell what each image was made with; ``/pose_error``,
    ``/true_quaternion`` and more of ParticleSet's TRUTH are there where errors or junk were planted. `progress` is told the images of each batch.

    Raises
    ------
    UserError
        when the volume is blank, or the file exists (without `overwrite`) or cannot be written.
    """
    from mpirecon.io.particle_writer import ParticleWriter

    simulator = Simulator(volume, pixel_size, settings)
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
        if family is not None:
            writer.write_extra("family", family)
        for start in range(0, len(drawn), simulator.batch):
            images = simulator.images(drawn[start : start + simulator.batch])
            writer.write_images(start, images.astype(settings.dtype, copy=False))
            progress(len(images))
    return SimulationResult(
        len(drawn),
        int(drawn.junk.sum()),
        int(drawn.wrong_pose.sum()),
        count_kinds(drawn.particles),
        simulator.noise_sigma,
        simulator.signal_variance,
    )


def _with_copies(drawn: DrawnParticles, settings: SimulationSettings) -> tuple[DrawnParticles, np.ndarray | None]:
    """The particles 0 … m − 1 with the duplicates that are planted behind them, in the other half set; and every row's particle."""
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
    """Multiply (m, n, n) images by their CTFs (or their signs) over the whole transform, corners too; (m, n, n) float32.

    aberrations : Aberrations of the images' optics groups (m,), whose even ones and magnification belong to the CTF
    """
    n = images.shape[-1]
    ky, kx = np.meshgrid(scipy.fft.fftfreq(n, 1.0 / n), np.arange(n // 2 + 1), indexing="ij")
    kx, ky = kx.ravel().astype(np.int32), ky.ravel().astype(np.int32)
    optics = None
    if aberrations is not None:  # a program that multiplies images knows nothing of the detector
        optics = OpticsPlanes.of(replace(aberrations, mtf=np.zeros((len(aberrations.group), 0))), kx, ky, n, pixel_size)
    values = ctf_at(ctf, kx, ky, n, pixel_size, optics, optics_group)
    if sign_only:
        values = np.where(values < 0, np.float32(-1), np.float32(1))
    transform = scipy.fft.rfft2(np.asarray(images, np.float32))
    transform *= values.reshape(transform.shape)
    return scipy.fft.irfft2(transform, s=(n, n)).astype(np.float32, copy=False)


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
