"""How much the curvature of the Ewald sphere costs a reconstruction that takes it for flat.

An image's sample k holds the map's transform at R^T(k, +z) and R^T(k, -z), z = λ|k|²/2, by its CTF's two sidebands
(DeRosier 2000, Ultramicroscopy 81:83; Wolf, DeRosier & Grigorieff 2006, Ultramicroscopy 106:376). Averaged over defocus and
views, a reconstruction of flat slices finds, at spatial frequency q, the density weighted by J0(πλ|q|²ρ), where ρ is the
distance from the axis along q through the particle's centre.
"""

from __future__ import annotations

import numpy as np
from scipy.special import j0

from mpirecon.model.optics import electron_wavelength
from mpirecon.model.particles import ParticleSet

#: nodes of the integral over the ball, and the points of λ·D/d² that are searched
_NODES, _POINTS = 64, np.linspace(0, 12, 2401)

#: FSC with the true map below which a run says that curvature matters
WORTH_A_WARNING = 0.95


def curvature_fsc(depth: np.ndarray) -> np.ndarray:
    """FSC of a noiseless flat reconstruction with the truth, for density spread evenly through a ball.

    depth : λ·D/d², wavelength times diameter over the square of the resolution; any shape
    """
    t, weight = np.polynomial.legendre.leggauss(_NODES)
    t, weight = (t + 1) / 2, weight / 2
    rho = np.sqrt(1 - t**2)  # in radii; t² evens the root at the rim out: ρ's density is 3 ρ √(1 − ρ²)
    weight = weight * 3 * t**2
    values = j0(np.pi / 2 * np.asarray(depth)[..., None] * rho)
    return (values * weight).sum(axis=-1) / np.sqrt((values**2 * weight).sum(axis=-1))


def curvature_limit(diameter: float, voltage_kv: float, level: float = 0.5) -> float:
    """Resolution in Å at which the FSC of a ball of that diameter (Å) with the truth first falls below `level`."""
    depth = _POINTS[np.argmax(curvature_fsc(_POINTS) < level)]
    return float(np.sqrt(electron_wavelength(voltage_kv) * diameter / depth))


def curvature_warning(resolution: float | None, diameter: float, voltage_kv: float) -> str | None:
    """What to say of a map of that resolution (Å); None where curvature does not matter."""
    if not resolution:
        return None
    lost = float(curvature_fsc(electron_wavelength(voltage_kv) * diameter / resolution**2))
    if lost > WORTH_A_WARNING:
        return None
    return (
        f"at {resolution:.2f} Å the Ewald sphere of {voltage_kv:g} kV is not flat across {diameter:.0f} Å: a flat "
        f"reconstruction agrees with such a particle by an FSC of {lost:.2f} at best; export the particles and use "
        "relion_reconstruct --ewald"
    )


def curvature_refusal(particles: ParticleSet) -> str:
    """Why a reconstruction with curvature is refused, and whether these particles would need one."""
    if particles.ctf_premultiplied:
        return ("curvature cannot be undone in CTF-premultiplied images: the product with the CTF has added the two sidebands; "
                "extract the images without premultiplication")
    if particles.ctf_phase_flipped:
        return ("curvature is undone in images as they were taken, and the phases of these are flipped; extract the images without "
                "phase flipping")
    voltage, edge = float(particles.ctf["voltage_kv"][0]), particles.box * particles.pixel_size
    limit = curvature_limit(edge, voltage, WORTH_A_WARNING)
    return (
        f"slices are flat in this version. At {voltage:g} kV that matters beyond {limit:.2f} Å for a particle as large as the "
        f"box ({edge:.0f} Å) and beyond {limit / 2**0.5:.2f} Å for one half as large; Nyquist is {2 * particles.pixel_size:g} Å. "
        "If it matters, reconstruct without --ewald, export the kept particles, and use relion_reconstruct --ewald"
    )
