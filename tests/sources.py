"""Densities and models that several test files start from, and the CTF written out."""

import math

import numpy as np

PDB = "ATOM  {n:5d}  {name:<3s} ALA A{n:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00          {e:>2s}\n"


def blobs(box, pixel_size, level=0.0):
    """Three Gaussians at fixed places in Å, wide enough for pixels of 3 Å: the same density on any grid."""
    z, y, x = (np.arange(box) - box // 2) * pixel_size * np.array([[1.0]] * 3)
    total = np.full((box,) * 3, level)
    for (cx, cy, cz), width, height in (((6, -9, 3), 5.0, 1.0), ((-12, 4, 10), 6.0, 0.7), ((2, 13, -8), 5.0, 0.5)):
        gx, gy, gz = (np.exp(-((a - c) ** 2) / (2 * width**2)) for a, c in ((x, cx), (y, cy), (z, cz)))
        total += height * gz[:, None, None] * gy[None, :, None] * gx
    return total


def write_pdb(path, atoms):
    lines = [PDB.format(n=i + 1, name=e, e=e, x=x, y=y, z=z) for i, (e, x, y, z) in enumerate(atoms)]
    path.write_text("".join(lines) + "END\n")
    return path


def explicit_ctf(ctf, kx, ky):
    """The formula of docs/files.md and of the CTF, written out; k in 1/Å."""
    volts = ctf["voltage_kv"] * 1e3
    wavelength = 12.2642598 / math.sqrt(volts * (1 + volts * 0.978475598e-6))
    k2, angle = kx**2 + ky**2, np.arctan2(ky, kx)
    u, v = ctf["defocus_u"], ctf["defocus_v"]
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (angle - ctf["astigmatism"]))
    q = ctf["amplitude_contrast"]
    phase = math.pi * wavelength * defocus * k2 - math.pi / 2 * ctf["cs_mm"] * 1e7 * wavelength**3 * k2**2
    phase += math.atan2(q, math.sqrt(1 - q * q)) + ctf["phase_shift"]
    return np.sin(phase) * ctf["scale"] * np.exp(-ctf["bfactor"] * k2 / 4)
