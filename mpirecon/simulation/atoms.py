"""Electron-scattering density of an atomic model (mmCIF or PDB), through gemmi."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.simulation.density import band_limit

_OVERSAMPLING = 1.5


def density_of_model(path: str | Path, box: int, pixel_size: float) -> np.ndarray:
    """Sum of the atoms' electron-scattering densities, (box, box, box) float32, protein positive.

    The centre of mass sits at voxel box // 2. Each atom contributes its five-Gaussian electron form factor
    (International Tables C 4.3.2.2) with its own B factor and occupancy; there is no solvent around it. The sum is
    made on a finer grid with blurred atoms, sharpened back and cut at the new grid's Nyquist, so nothing aliases.

    Raises
    ------
    UserError
        when the file cannot be read, has no atoms, or the model does not fit into the box.
    """
    model = _read_model(path)
    _centre_and_check(model, path, box, pixel_size)
    fine = fft.next_fast_len(int(np.ceil(_OVERSAMPLING * box)), real=True)
    grid, multiplier = _fine_density(model, box * pixel_size, fine, pixel_size)
    return band_limit(_crop_transform(grid, multiplier, box, box * pixel_size))


def _read_model(path):
    import gemmi

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give an mmCIF or PDB file")
    try:
        structure = gemmi.read_structure(str(path))
    except Exception as error:  # gemmi raises RuntimeError, ValueError and UnicodeDecodeError alike
        reason = str(error).strip().splitlines()
        raise UserError(f"{path}: not a readable mmCIF or PDB file: {reason[0] if reason else error}") from error
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise UserError(f"{path}: holds no atoms; give the coordinates of a model (mmCIF or PDB)")
    return structure[0]


def _centre_and_check(model, path, box: int, pixel_size: float) -> None:
    """Move the centre of mass to the origin voxel of a cell that is the box."""
    import gemmi

    mass = model.calculate_center_of_mass()
    if not np.isfinite(mass.tolist()).all():
        raise UserError(f"{path}: the centre of mass is {mass.tolist()}; some atom has no usable position")
    atoms = [site.atom for site in model.all()]
    reach = max(atom.pos.dist(mass) for atom in atoms)
    radius = ((box - 1) // 2 - 1) * pixel_size
    if reach + 1.5 > radius:
        needed = 2 * (int(np.ceil((reach + 1.5) / pixel_size)) + 1) + 2
        raise UserError(
            f"{path}: an atom lies {reach:.0f} Å from the centre of mass, but a box of {box} pixels of {pixel_size:g} "
            f"Å reaches only {radius:.0f} Å; use --box {needed} or more, or larger pixels"
        )
    origin = gemmi.Position(*[(box // 2) * pixel_size] * 3)
    for atom in atoms:
        atom.pos = gemmi.Position(atom.pos - mass + origin)


def _fine_density(model, length: float, fine: int, pixel_size: float):
    """Blurred density on a `fine`³ grid [x, y, z] and the function of 1/d² that takes the blur away."""
    import gemmi

    calculator = gemmi.DensityCalculatorE()
    calculator.d_min = 2 * pixel_size
    calculator.rate = _OVERSAMPLING
    calculator.set_refmac_compatible_blur(model)
    calculator.grid.set_unit_cell(gemmi.UnitCell(length, length, length, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(fine, fine, fine)
    calculator.put_model_density_on_grid(model)
    blur = calculator.blur
    return np.array(calculator.grid, copy=False), lambda inverse_d2: np.exp(blur * inverse_d2 / 4)


def _crop_transform(grid: np.ndarray, multiplier, box: int, length: float) -> np.ndarray:
    """Low-pass a periodic [x, y, z] grid to `box` points a side and return it as [z, y, x] float32."""
    fine = grid.shape[0]
    transform = fft.rfftn(np.ascontiguousarray(grid.T, dtype=np.float32))
    k = fft.fftfreq(box, 1.0 / box).astype(int)
    kx = np.arange(box // 2 + 1)
    cropped = transform[np.ix_(k % fine, k % fine, kx)]
    k2 = (k**2)[:, None, None] + (k**2)[None, :, None] + kx**2
    cropped *= multiplier(k2 / length**2) * (box / fine) ** 3
    return fft.irfftn(cropped.astype(np.complex64), s=(box,) * 3)
