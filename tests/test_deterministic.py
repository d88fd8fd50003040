"""--deterministic: the same bits whatever the number of ranks and threads, batches and their order."""

import mrcfile
import numpy as np
import pytest

from mpirecon.errors import UserError
from mpirecon.kernels.backproject import make_backproject
from mpirecon.kernels.symmetrise import symmetrise
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.model.symmetry import point_group
from mpirecon.operators.fixed_point import FixedPoint, sum_unit
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.tiles import Slices, Tiles
from mpirecon.parallel.threads import Threads
from mpirecon.solvers.config import Config

BOX, IMAGES = 16, 40


@pytest.fixture(scope="module")
def samples():
    """rotation, numerator, weight of images whose numerators are of very different sizes"""
    draw = np.random.default_rng(7)
    plane = HalfPlane.of(BOX)
    q = draw.normal(size=(IMAGES, 4))
    numerator = (
        draw.normal(size=(IMAGES, len(plane))) + 1j * draw.normal(size=(IMAGES, len(plane)))
    ) * 10 ** draw.uniform(-3, 3, (IMAGES, 1))
    weight = draw.uniform(0, 1, (IMAGES, len(plane)))
    return (
        matrix_from_quaternion(q / np.linalg.norm(q, axis=1)[:, None]),
        numerator.astype(np.complex64),
        weight.astype(np.float32),
    )


def units(samples):
    _, numerator, weight = samples
    return FixedPoint.of(float(np.abs(numerator).max()), float(weight.max()), IMAGES)


def accumulated(samples, order, batch, dtype=np.int64):
    rotation, numerator, weight = samples
    projection = Projection(BOX, HalfPlane.of(BOX))
    grid = projection.accumulator(dtype)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        some, spread = numerator[rows], weight[rows]
        if dtype == np.int64:
            units(samples).scale(some, spread)
        projection.adjoint_add(grid, rotation[rows], some, spread)
    return projection.folded(grid)


def test_the_order_of_images_and_batches_does_not_matter(samples):
    whole = accumulated(samples, np.arange(IMAGES), IMAGES)
    for seed, batch in ((1, 1), (2, 7), (3, 16)):
        order = np.random.default_rng(seed).permutation(IMAGES)
        np.testing.assert_array_equal(accumulated(samples, order, batch), whole)
    # parts of several ranks, summed
    parts = [accumulated(samples, part, 5) for part in np.array_split(np.arange(IMAGES), 3)]
    np.testing.assert_array_equal(sum(parts), whole)


def test_tiles_of_threads_add_the_same(samples):
    rotation, numerator, weight = samples
    projection, kernel = Projection(BOX, HalfPlane.of(BOX)), make_backproject(4, True)
    some, spread = numerator.copy(), weight.copy()
    units(samples).scale(some, spread)
    plane = projection.plane
    grids = [projection.accumulator(np.int64) for _ in range(4)]
    slices = Slices(rotation, projection.ratio, plane, grids[0].shape, 4)
    for grid, threads in zip(grids, (1, 2, 5, 30)):
        parts = [[None]] if threads == 1 else Tiles.of(slices, threads).shares(slices, Threads(threads))
        for runs in (runs for apart in parts for runs in apart):
            kernel(grid, projection.table, rotation, projection.ratio, plane.kx, plane.ky, some, spread, runs)
    for grid in grids[1:]:
        np.testing.assert_array_equal(grid, grids[0])


def test_whole_numbers_are_at_least_as_exact_as_floats(samples):
    whole = accumulated(samples, np.arange(IMAGES), IMAGES)
    counted = units(samples).floats(whole.reshape(-1), 0).reshape(whole.shape)
    plain = accumulated(samples, np.arange(IMAGES), IMAGES, np.float32)
    for part in (np.s_[..., :2], np.s_[..., 2]):
        assert np.linalg.norm(counted[part] - plain[part]) <= 1e-6 * np.linalg.norm(plain[part])


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_slabs_that_begin_anywhere_are_read_in_the_right_unit(first):
    whole = np.arange(30, dtype=np.int64) * 2**20
    both = FixedPoint(2.0**20, 2.0**10)
    np.testing.assert_array_equal(both.floats(whole[first:], first), both.floats(whole, 0)[first:])


@pytest.mark.parametrize("images", [1, 1000, 10**7, 6 * 10**8])
def test_the_largest_sum_fits(images):
    largest = 3.7e5
    unit = FixedPoint.of(largest, 1.0, images).numerator
    assert largest * unit * images * 32 < 2**63 and largest * unit < 2**51
    assert sum_unit(largest, images) * largest * images < 2**63


def test_symmetry_sums_whole_numbers_exactly():
    signed, _ = point_group("D2").split()
    draw = np.random.default_rng(3).integers(-(2**61), 2**61, (12, 12, 7, 3)) // len(signed)
    plain = draw.astype(np.float64)
    symmetrise(draw, signed)
    symmetrise(plain, signed)
    np.testing.assert_allclose(draw, plain, rtol=1e-14, atol=4096)
    assert (draw[1:4, 1:4, 1:4] % 2).any(), "sums in doubles would have lost the last bits"


@pytest.mark.parametrize("option", [{"backend": "cuda"}, {"space": "real"},
                                    {"loss": "sorted", "keep": 0.5, "sort_scope": "batch"},
                                    {"half_precision": True}])
def test_what_cannot_be_is_refused(option):
    with pytest.raises(UserError, match="--deterministic cannot be had with"):
        Config(deterministic=True, **option)


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("deterministic") / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", 151, "--box", BOX, "--pixel-size", 8, "--snr", 0.4,
                 "--error-rate", 0.3, "--noise-cv", 0.2, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.mark.parametrize("options", [
    ("--loss", "posterior", "--iterations", "3"),
    ("--solver", "gradient", "--loss", "huber", "--iterations", "2", "--batch-size", "70", "--symmetry", "C2"),
], ids=["posterior", "gradient"])  # fmt: skip
def test_the_same_bits_on_any_number_of_ranks_and_threads(particles, cli, mpirun, tmp_path, options):
    command = ["reconstruct", particles, *options, "--deterministic", "-o"]
    result = cli(*command, tmp_path / "one", env={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    for n, threads in ((2, 2), (3, 1), (4, 1)) if "posterior" in options else ((3, 1),):
        out = tmp_path / f"on-{n}"
        env = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)} if threads > 1 else None
        result = mpirun(n, ["-m", "mpirecon", *command, out], env=env)
        assert result.returncode == 0, result.stderr
        for name in ("volume", "half1", "half2"):
            np.testing.assert_array_equal(mrcfile.read(tmp_path / "one" / f"{name}.mrc"),
                                          mrcfile.read(out / f"{name}.mrc"))
