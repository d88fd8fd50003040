"""References of fewer frequencies: the same slices and solutions from a smaller box."""

import json

import numpy as np
import pytest
from scipy.fft import rfftn
from scipy.stats import special_ortho_group

from mpirecon.backend.cpu import Batch, CpuBackend
from mpirecon.cli import run as mpirecon
from mpirecon.kernels.sphere import add_middle
from mpirecon.model.aberrations import Aberrations
from mpirecon.operators.coarse import coarse_box, coarse_projection
from mpirecon.operators.fourier import padded_size
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.projection import Projection
from mpirecon.operators.resample import linearly
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.solvers.groups import GroupStore, held_out_map, half_map
from mpirecon.solvers.wiener import finest_compared, wiener_filter
from mpirecon.validate.fsc import filter_shells, lowest_frequencies
from mpirecon.validate.masks import soft_sphere

BOX, COARSE = 100, 80


@pytest.fixture(scope="module")
def backend():
    return CpuBackend(BOX, 2.0, taps=3, padding=1.5)


def smooth(box=BOX, shells=30, seed=0):
    """Noise of the first shells, within a sphere whose edge is soft enough to add no frequencies to speak of."""
    noise = np.random.default_rng(seed).standard_normal((box,) * 3).astype(np.float32)
    return filter_shells(noise, np.ones(shells)) * soft_sphere(box, 0.35 * box, 0.12 * box)


def middle_of(volume, box):
    """The map in a smaller box, by its Fourier transform; values are densities, as solutions have them."""
    n = len(volume)
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    some = slice(n // 2 - box // 2, n // 2 - box // 2 + box)
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum[some, some, some]))).real.astype(np.float32)


@pytest.mark.parametrize(("box", "padding"), [(100, 1.5), (128, 1.5), (200, 1.5), (256, 2.0), (110, 1.5)])
def test_a_coarse_grid_is_the_middle_of_the_fine_one(box, padding):
    projection = Projection(box, taps=3, padding=padding)
    for reach in range(box // 2):
        n = coarse_box(projection, reach)
        assert n == box or (n % 2 == 0 and reach + 2 <= n // 2 and 0.25 * box <= n < box)
        assert padded_size(n, padding) * box == projection.padded * n
    assert coarse_box(projection, 0) <= coarse_box(projection, box // 2 - 1) == box


def test_small_boxes_stay_as_they_are():
    assert coarse_box(Projection(96), 5) == 96


@pytest.mark.parametrize("maps", [1, 2])
def test_slices_of_a_coarse_map_are_the_fine_ones(backend, maps):
    fine, rotation = smooth(), special_ortho_group.rvs(3, size=5, random_state=1)
    assert coarse_box(backend.projection, 36) == COARSE
    grids = [backend.pair() if maps == 2 else None for _ in range(2)]
    for k, volume in enumerate((fine, middle_of(fine, COARSE))):
        if maps == 2:
            for which in (0, 1):
                backend.set_reference(grids[k], which, volume * (1 + which))
        else:
            grids[k] = backend.reference(volume)
    grids = [grid.values if maps == 2 else grid for grid in grids]
    parts = [g.reshape(*g.shape[:2], -1, 2 * maps)[..., 2 * maps - 2 :].reshape(*g.shape[:2], -1).copy() for g in grids]
    exact, found = (backend.projection.forward(part, rotation) for part in parts)
    within = backend.plane.shell < COARSE // 2
    assert np.linalg.norm((found - exact)[:, within]) < 2e-4 * np.linalg.norm(exact)
    # beyond its shells is what the sphere's edge adds
    assert np.linalg.norm(found - exact) < 1.5e-3 * np.linalg.norm(exact)
    beyond = np.maximum(np.abs(backend.plane.kx), np.abs(backend.plane.ky)) > COARSE // 2 + 2
    assert beyond.any() and not backend.projection.forward(parts[1], np.eye(3)[None])[:, beyond].any()


def images_of(backend, m=7):
    """Batch of noise with random poses and CTFs, as if prepared."""
    rng, samples = np.random.default_rng(4), len(backend.plane)
    data = (rng.standard_normal((m, samples)) + 1j * rng.standard_normal((m, samples))).astype(np.complex64)
    ctf = rng.uniform(-1, 1, (m, samples)).astype(np.float32)
    return Batch(data, ctf, special_ortho_group.rvs(3, size=m, random_state=5), np.arange(m) % 2)


@pytest.mark.parametrize("whitened", [True, False])
@pytest.mark.parametrize("premultiplied", [True, False])
@pytest.mark.parametrize("taps", [3, 4])
@pytest.mark.parametrize("box", [COARSE, 40])
def test_a_coarse_pair_holds_all_that_statistics_need(box, taps, premultiplied, whitened):
    backend = CpuBackend(BOX, 2.0, taps=taps, padding=1.5, premultiplied=premultiplied, threads=2)
    small, whole = backend.pair(box), backend.pair()
    assert small.values.nbytes < 0.9 * whole.values.nbytes and 0 < len(small.near) < len(backend.plane) == len(
        whole.near
    )
    for which in (0, 1):
        volume = np.random.default_rng(which).standard_normal((box,) * 3).astype(np.float32)
        for pair in (small, whole):
            backend.set_reference(pair, which, volume)
    batch = images_of(backend)
    bands = backend.bands(np.random.default_rng(2).uniform(0.5, 2, (2, backend.plane.shells)), 1,
                          backend.plane.shells - 1, whitened)
    found, expected = (backend.statistics(pair, batch, bands) for pair in (small, whole))
    reached = np.array([backend.plane.shell[bands.band == b].max() < box / 2 for b in range(len(bands.samples))])
    assert reached.any() and not reached.all() and (expected[:, :, reached, 2] > 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_a_pair_has_room_for_maps_of_its_box(backend):
    for box in (BOX, COARSE + 2):
        with pytest.raises(ValueError, match=f"box {box} for a pair of box {COARSE}"):
            backend.set_reference(backend.pair(COARSE), 0, smooth(box))


def test_frequencies_that_magnification_moves_need_the_whole_grid():
    stretched = Aberrations(np.array([1]), np.array([[[1.02, 0.0], [0.0, 0.97]]]),
                            *(np.zeros((1, 0)) for _ in range(3)))
    pair = CpuBackend(BOX, 2.0, taps=3, padding=1.5, aberrations=stretched).pair(COARSE)
    assert len(pair.near) == len(HalfPlane.of(BOX, None, stretched.stretch)) and pair.values.shape == CpuBackend(
        BOX, 2.0, taps=3, padding=1.5).pair().values.shape  # fmt: skip


@pytest.mark.parametrize("box", [COARSE, 40])
def test_a_filtered_map_of_fewer_frequencies_has_the_same_slices(backend, box):
    volume, rotation = smooth(shells=16), special_ortho_group.rvs(3, size=4, random_state=2)
    ssnr = np.where(np.arange(51) < 16, np.exp(2 - np.arange(51) / 4), 0)  # what is beyond is silenced
    maps = [wiener_filter(rfftn(volume), ssnr, size) * soft_sphere(size, 0.36 * size, 0.12 * size)
            for size in (BOX, box)]
    fine, coarse = (backend.projection.forward(backend.reference(map_), rotation) for map_ in maps)
    within = backend.plane.shell < box // 2
    assert np.linalg.norm(fine) > 0 and np.linalg.norm((coarse - fine)[:, within]) < 1e-3 * np.linalg.norm(fine)
    # beyond, the coarse map has nothing of what the sphere's edge adds
    assert np.linalg.norm(coarse - fine) < 4e-3 * np.linalg.norm(fine)


@pytest.mark.parametrize(("box", "size"), [(60, 40), (61, 40), (75, 60)])
def test_the_lowest_frequencies_of_a_map_keep_its_origin(box, size):
    def blob(n):  # a little off the origin, in voxels of the larger box, by the same sum
        x = (np.arange(n) - n // 2) * (box / n)
        z, y, x = np.meshgrid(x - 2.3, x + 1.7, x - 0.9, indexing="ij")
        return np.exp(-(x**2 + y**2 + z**2) / (2 * 4.0**2)) * (box / n) ** 3

    small = np.fft.irfftn(lowest_frequencies(np.fft.rfftn(blob(box)), size), s=(size,) * 3, axes=(0, 1, 2))
    np.testing.assert_allclose(small, blob(size), atol=1e-5 * blob(size).max())


@pytest.mark.parametrize("box", [128, 123])
def test_losses_of_l2_do_not_depend_on_the_references_box(box, tmp_path, monkeypatch):
    simulate = ["simulate", "--phantom", "--box", box, "--particles", 120, "--pixel-size", 3, "--snr", 0.1, "--seed", 5,
                "-q"]
    assert mpirecon([*map(str, simulate), "-o", str(tmp_path / "p.h5")]) == 0
    boxes, found = [], []
    for coarse in (CpuBackend.coarse_box, lambda self, reach: self.plane.box):
        monkeypatch.setattr(CpuBackend, "coarse_box", lambda self, reach,
                            coarse=coarse: boxes.append(coarse(self, reach)) or boxes[-1])
        command = ["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / f"run{len(found)}"), "--loss", "l2",
                   "-q", "--no-postprocess"]
        assert mpirecon(command) == 0
        (record,) = json.loads((tmp_path / f"run{len(found)}" / "summary.json").read_text())["iterations"]
        found.append(record)
    assert boxes[0] < boxes[1] == box
    explained = [1 - record["loss_heldout"] for record in found]
    assert explained[1] > 0.02 and abs(explained[0] - explained[1]) < 0.03 * explained[1]


def accumulated(backend, seed):
    rng = np.random.default_rng(seed)
    p = backend.projection
    rotation = special_ortho_group.rvs(3, size=60, random_state=seed)
    accumulator = p.accumulator()
    slices = p.forward(p.grid(smooth(seed=7)), rotation)
    p.adjoint_add(accumulator, rotation, slices, rng.uniform(0.5, 1, slices.shape).astype(np.float32))
    return p.folded(accumulator)


def test_the_solution_of_the_middle_is_the_middle_of_the_solution(backend):
    folded = accumulated(backend, 3)
    small = coarse_projection(backend.projection, COARSE)
    out = np.zeros((small.padded, small.padded, small.padded // 2 + 1, 3), np.float32)
    add_middle(folded, out)
    equations = backend.normal_equations(out)
    assert equations.projection.box == COARSE and equations.projection.padded == small.padded
    whole = NormalEquations(backend.projection, folded)
    np.testing.assert_allclose(equations.shell_weight()[:-2], whole.shell_weight()[: equations.shells - 1], rtol=1e-5)
    ridge = np.full(whole.shells + 1, whole.ridge()[-1])
    fine, coarse = whole.direct(ridge), equations.direct(ridge[: equations.shells + 1])
    expected = filter_shells(middle_of(fine, COARSE), np.ones(34))
    found = filter_shells(coarse, np.ones(34))
    inside = soft_sphere(COARSE, 30, 2) > 0
    assert np.linalg.norm((found - expected)[inside]) < 0.02 * np.linalg.norm(expected[inside])
    add_middle(folded, out, -1)
    assert not out.any()


@pytest.mark.parametrize("shape", [(8, 8, 5, 3), (10, 10, 6, 3)])
def test_middles_of_groups_add_up(shape):
    rng, store = np.random.default_rng(0), GroupStore(SerialCommunicator(), shape)
    groups = {(half, fold): rng.standard_normal(shape).astype(np.float32) for half in (1, 2) for fold in range(3)}
    for group, folded in groups.items():
        store.put(group, folded)
    for made_of in (half_map(1), *(held_out_map(group) for group in groups), half_map(2)):
        whole = store.collect(made_of, 0)
        middle = np.zeros((6, 6, 4, 3), np.float32)
        add_middle(whole, middle)
        frequency = np.fft.fftfreq(6, 1 / 6).astype(int)
        frequency[3] = 3  # Nyquist stands for both signs
        np.testing.assert_array_equal(middle, whole[frequency][:, frequency][:, :, :4])
        np.testing.assert_allclose(store.collect(made_of, 0, side=6), middle, atol=1e-5)
        np.testing.assert_array_equal(store.collect(made_of, 0, side=shape[0]), whole)


@pytest.mark.parametrize("n", [1, 3])
def test_middles_of_groups_add_up_over_ranks(mpi_program, n):
    mpi_program(n, "coarse_program.py")


def test_a_coarse_mask_is_the_mask_where_it_is_looked_up():
    np.testing.assert_allclose(linearly(soft_sphere(BOX, 40, 5), COARSE), soft_sphere(COARSE, 32, 4), atol=0.03)
    assert (linearly(np.ones((BOX,) * 3, np.float32), COARSE) == 1).all()
    marked = np.zeros((BOX,) * 3, np.float32)
    marked[50, 50, 50] = 1
    assert linearly(marked, COARSE)[40, 40, 40] == 1


def test_references_reach_as_far_as_particles_can_be_scored():
    shells = np.arange(65)
    reach = finest_compared(np.exp(-shells / 5))
    evidence = shells**2 * np.exp(-shells / 5) ** 2 / (1 + np.exp(-shells / 5))
    assert evidence[: reach + 1].sum() >= 0.99 * evidence.sum() > evidence[:reach].sum()
    assert finest_compared(np.zeros(65)) == 64
    assert finest_compared(np.full(65, 3.0)) == 64


@pytest.mark.parametrize(("n", "box"), [(16, 24), (16, 25), (15, 24), (25, 16), (24, 15)])
def test_linear_interpolation_keeps_the_origin_in_even_and_odd_boxes(n, box):
    def ramps(size):  # what is linear in the distance from the origin along each axis, in pixels of the smaller grid
        x = (np.arange(size) - size // 2) * (n / size)
        return (x[:, None, None] + 2 * x[:, None] + 3 * x).astype(np.float32)

    inside = slice(box // n + 2, box - box // n - 2)
    np.testing.assert_allclose(linearly(ramps(n), box)[(inside,) * 3], ramps(box)[(inside,) * 3], atol=1e-4)
