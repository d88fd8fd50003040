"""What is random about each simulated particle: a function of (seed, particle id) and the settings, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.model.draws import particle_rng, random_halves, random_quaternion
from mpirecon.model.optics import make_ctf
from mpirecon.model.particles import ParticleSet
from mpirecon.model.simulated_errors import simulate_errors
from mpirecon.model.pose import Pose
from mpirecon.simulation.settings import SimulationSettings
from mpirecon.simulation.surroundings import preferred_views


@dataclass
class DrawnParticles:
    """Simulated particles before they have pixels.

    particles : ParticleSet, what a reconstruction knows
    true_pose, true_ctf : Pose and (m,) CTF_DTYPE of the images
    scale : (m,) contrast factors, mean 1
    noise_factor : (m,) noise level over the set's mean level
    junk : (m,) bool, images without a particle
    """

    particles: ParticleSet
    true_pose: Pose
    true_ctf: np.ndarray
    scale: np.ndarray
    noise_factor: np.ndarray
    junk: np.ndarray

    def __len__(self) -> int:
        return len(self.particles)

    def __getitem__(self, rows) -> DrawnParticles:
        parts = (self.particles, self.true_pose, self.true_ctf, self.scale, self.noise_factor, self.junk)
        return DrawnParticles(*(part[rows] for part in parts))

    @property
    def wrong_pose(self) -> np.ndarray:
        """(m,) bool, particles (not junk) whose given pose was replaced."""
        flag = self.particles.pose_error
        return np.zeros(len(self), bool) if flag is None else flag & ~self.junk


def draw_particles(settings: SimulationSettings, box: int, pixel_size: float, ids: np.ndarray) -> DrawnParticles:
    """The particles with these ids. Each takes the same numbers from its own stream whatever the settings are, so
    that two sets of one seed differ only in what their settings changed."""
    ids = np.asarray(ids, np.int64)
    m = len(ids)
    quaternion, normal, uniform = np.empty((m, 4)), np.empty((m, 5)), np.empty((m, 3))
    for row, particle in enumerate(ids):
        rng = particle_rng(settings.seed, int(particle), "particle")
        quaternion[row] = random_quaternion(rng)
        normal[row] = rng.standard_normal(5)
        uniform[row] = rng.random(3)
    quaternion = preferred_views(settings, ids, quaternion)
    true_pose = Pose(quaternion, settings.shift_sigma * normal[:, :2])
    junk = uniform[:, 2] < settings.junk_rate
    ctf = _draw_ctf(settings, normal[:, 2], uniform)
    pose, given, truth = true_pose, ctf, {}
    if settings.junk_rate > 0 or settings.simulates_errors:
        planted = simulate_errors(settings, settings.seed, ids, true_pose, ctf, spared=junk)
        pose, given, truth = planted.pose, planted.ctf, {**planted.truth,
                                                        "pose_error": planted.truth["pose_error"] | junk}
    particles = ParticleSet(
        box=box,
        pixel_size=pixel_size,
        pose=pose,
        ctf=given,
        half=random_halves(settings.seed, ids) if settings.halves == "random" else 1 + ids % 2,
        optics_group=np.ones(m, np.int32),
        ctf_premultiplied=settings.ctf_premultiplied,
        ctf_phase_flipped=settings.ctf_phase_flipped,
        ids=ids,
        **truth,
    )
    scale, noise = (_log_normal(normal[:, c], cv) for c, cv in ((3, settings.scale_cv), (4, settings.noise_cv)))
    return DrawnParticles(particles, true_pose, ctf, scale, noise, junk)


def _draw_ctf(settings: SimulationSettings, normal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(m,) CTF_DTYPE; without CTF the parameters for which it is 1: no defocus, full amplitude contrast."""
    if not settings.use_ctf:
        return make_ctf(len(normal), voltage_kv=settings.voltage, amplitude_contrast=1.0)
    low, high = settings.defocus
    mean = low + (high - low) * uniform[:, 0]
    difference = np.abs(settings.astigmatism * normal)
    return make_ctf(
        len(normal),
        voltage_kv=settings.voltage,
        defocus_u=mean + difference / 2,
        defocus_v=mean - difference / 2,
        astigmatism=np.pi * uniform[:, 1],
        cs_mm=settings.cs,
        amplitude_contrast=settings.amplitude_contrast,
        phase_shift=settings.phase_shift,
        bfactor=settings.bfactor,
    )


def _log_normal(normal: np.ndarray, cv: float) -> np.ndarray:
    """Positive factors with mean 1 and standard deviation `cv`."""
    variance = np.log1p(cv**2)
    return np.exp(np.sqrt(variance) * normal - variance / 2)
