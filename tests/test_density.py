"""The volumes simulations start from: resampled maps, the phantom, atomic models."""

import numpy as np
import pytest
from sources import blobs, write_pdb

from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map
from mpirecon.simulation.atoms import density_of_model
from mpirecon.simulation.density import band_limit, interpolation_matrix, resample_map
from mpirecon.simulation.phantom import phantom
from mpirecon.validate.fsc import fsc


@pytest.mark.parametrize("box, pixel_size", [(64, 2), (65, 2), (48, 2.5), (41, 2.87), (80, 1.37), (40, 3), (96, 2)])
@pytest.mark.parametrize("source", [64, 63])
def test_resampling_keeps_density_place_and_scale(source, box, pixel_size):
    resampled = resample_map(blobs(source, 2.0, level=5.0), 2.0, box, pixel_size)
    np.testing.assert_allclose(resampled.density, blobs(box, pixel_size), atol=4e-3)
    assert resampled.solvent == pytest.approx(5, abs=1e-3) and resampled.lost < 1e-3


def test_interpolation_passes_what_both_grids_hold_and_nothing_else():
    """A wave below both Nyquist frequencies is reproduced exactly, one above the new Nyquist vanishes."""
    x, new_x = np.arange(20) - 10, (np.arange(15) - 7) * 4 / 3
    matrix = interpolation_matrix(20, 1.0, 15, 4 / 3)

    def wave(at, k):
        return np.cos(2 * np.pi * k * at / 20 + 0.4)

    np.testing.assert_allclose(matrix @ wave(x, 3), wave(new_x, 3), atol=1e-12)
    np.testing.assert_allclose(matrix @ wave(x, 8), 0, atol=1e-12)


def test_a_map_cut_by_the_box_says_how_much_was_lost():
    assert resample_map(blobs(64, 2.0), 2.0, 16, 2.0).lost > 0.05
    with pytest.raises(UserError, match="constant"):
        resample_map(np.ones((16, 16, 16), "f4"), 2.0, 16, 2.0)


@pytest.mark.parametrize("box", [16, 17])
def test_band_limit_leaves_nothing_at_nyquist(box):
    noise = np.random.default_rng(0).standard_normal((box,) * 3)
    before, after = np.fft.fftn(noise), np.fft.fftn(band_limit(noise))
    k = np.fft.fftfreq(box, 1 / box)
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(k, k, k)))
    np.testing.assert_allclose(after[radius >= box / 2], 0, atol=1e-3)
    np.testing.assert_allclose(after[radius <= box / 2 - 2], before[radius <= box / 2 - 2], atol=1e-3)


@pytest.mark.parametrize("box", [48, 49])
def test_the_phantom_is_one_object_with_a_hand_in_every_box(box):
    volume, fine = phantom(box), phantom(96)
    assert volume.dtype == np.float32 and volume.sum() > 0
    faces = np.concatenate([np.take(volume, (0, -1), axis=axis).ravel() for axis in range(3)])
    assert np.abs(faces).max() < 5e-3 * volume.max()
    coarse = resample_map(fine, 1.0, box, 96 / box).density
    assert (fsc(coarse, volume)[: int(0.7 * box / 2)] > 0.9999).all()
    for mirror in (volume[::-1], volume[:, ::-1], volume[:, :, ::-1]):
        assert fsc(volume, mirror)[3 : box // 3].max() < 0.6


@pytest.mark.parametrize("box", [40, 41])
def test_an_atom_has_its_electron_form_factor_at_its_place(tmp_path, box):
    """The transform equals Σ f(k) exp(−B k²/4) exp(−2πi k·r) evaluated atom by atom."""
    gemmi = pytest.importorskip("gemmi")
    atoms = [("C", 110.0, -3.0, 2.0), ("O", 104.0, 5.5, -7.0), ("N", 99.5, 0.3, 4.2), ("P", 102.0, -8.0, 1.0)]
    pixel_size = 1.4
    volume = density_of_model(write_pdb(tmp_path / "m.pdb", atoms), box, pixel_size)
    elements = [gemmi.Element(name) for name, *_ in atoms]
    place = np.array([xyz for _, *xyz in atoms])
    weight = np.array([e.weight for e in elements])
    place -= weight @ place / weight.sum()
    k = np.fft.fftfreq(box, pixel_size)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    k2 = kx**2 + ky**2 + kz**2
    expected = np.zeros(k2.shape, complex)
    for element, (x, y, z) in zip(elements, place):
        form = sum(a * np.exp(-b * k2 / 4) for a, b in zip(element.c4322.a, element.c4322.b))
        expected += form * np.exp(-20.0 * k2 / 4) * np.exp(-2j * np.pi * (kx * x + ky * y + kz * z))
    found = np.fft.fftn(np.roll(volume.astype(float), [-(box // 2)] * 3, (0, 1, 2))) * pixel_size**3
    inside = k2 < ((box / 2 - 2.5) / (box * pixel_size)) ** 2
    np.testing.assert_allclose(found[inside], expected[inside], atol=3e-3 * np.abs(expected).max())


def test_a_deposited_model_looks_like_its_map(shared_data):
    model = density_of_model(shared_data / "maps" / "5ni1_updated.cif", 100, 1.05)
    measured = read_map(shared_data / "maps" / "emd_3488.mrc").array
    cross = np.fft.irfftn(np.fft.rfftn(measured) * np.conj(np.fft.rfftn(model)), s=model.shape, axes=(0, 1, 2))
    moved = np.roll(model, np.unravel_index(cross.argmax(), cross.shape), (0, 1, 2))
    assert fsc(measured, moved)[5:25].min() > 0.8 > 0.6 > fsc(measured, moved[::-1])[5:25].max()
