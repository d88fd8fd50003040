"""On a real GPU, through the real CuPy: run by tools/gpu_check, or pytest -m gpu."""

import json
import time

import numpy as np
import pytest
from adjoint import inner, random_like
from test_cuda_backend import TOLERANCE, aberrations, measure, particles
from test_cuda_commands import RUNS, assert_same_run, outcome
from test_cuda_search import images, searches

from mpirecon.backend import get_backend
from mpirecon.backend.arrays import DeviceArrays
from mpirecon.backend.gpu import Gpu
from mpirecon.model import Stack, Volume
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.search.group_search import GroupSearch
from mpirecon.search.pose_search import PoseSearch

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy():
    found = pytest.importorskip("cupy")
    try:
        found.zeros(1)
    except Exception as error:
        pytest.skip(f"no usable GPU: {error}")
    if "fake_cupy" in found.__file__:
        pytest.skip("the stand-in is imported as cupy")
    return found


@pytest.fixture
def seed() -> int:
    """Fresh random numbers in every run, told when a test fails."""
    value = time.time_ns() % 2**31
    print(f"seed {value}")
    return value


@pytest.mark.parametrize(
    "taps, padding, box, premultiplied, contrast, aberrated",
    [(4, 2, 64, False, "one", False), (4, 1.25, 65, True, "per shell", True), (3, 1.5, 128, False, "per shell", False)],
)
def test_everything_agrees_with_the_cpu_backend(cupy, seed, taps, padding, box, premultiplied, contrast, aberrated):
    particle_set, images = particles(40, box, seed)
    options = {"interpolation": {"taps": taps, "padding": padding}, "premultiplied": premultiplied,
               "aberrations": aberrations() if aberrated else None}
    cpu, cuda = (measure(get_backend(name, box, 2.0, **options), images, particle_set, contrast)
                 for name in ("cpu", "cuda"))
    for name, expected in cpu.items():
        error = np.abs(cuda[name] - expected).max() / np.abs(expected).max()
        assert error < max(1e-5, TOLERANCE.get(name, 0)), f"{name}: {error:.2g}"


@pytest.mark.parametrize("cls", [PoseSearch, GroupSearch])
def test_poses_are_searched_as_on_the_host(cupy, cls):
    *some, given = images(3)
    given = given if cls is PoseSearch else matrix_from_quaternion(given)
    one, other = (search.search(*some, given) for search in searches(cls, "C1", 1.0, DeviceArrays(Gpu())))
    np.testing.assert_allclose(other.cross, one.cross, rtol=1e-3)


def test_two_runs_agree_to_rounding_and_statistics_to_the_bit(cupy, seed):
    box, (particle_set, images) = 96, particles(200, 96, seed)
    backend = get_backend("cuda", box, 2.0)
    batch, one = backend.prepare(images, particle_set), np.ones(200)
    reference = backend.reference(random_like((box,) * 3, np.float32, seed))
    bands = backend.bands(np.ones(backend.plane.shells), 2, backend.plane.shells - 1, True)
    first, second = (backend.statistics(reference, batch, bands) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    folded = []
    for _ in range(2):
        accumulator = backend.accumulator()
        backend.accumulate(accumulator, batch, one, one, one)
        folded.append(backend.folded(accumulator))
    assert np.linalg.norm(folded[0] - folded[1]) < 1e-6 * np.linalg.norm(folded[0])


def test_backprojection_is_the_adjoint_of_projection(cupy, seed):
    """⟨P x, y⟩ = ⟨x, Pᴴ y⟩ through the fused kernels:
    yp is that inner product, by statistics and by the right-hand side."""
    box, m = 64, 50
    particle_set, images = particles(m, box, seed)
    backend = get_backend("cuda", box, 2.0)
    batch, one = backend.prepare(images, particle_set), np.ones(m)
    x = random_like((box,) * 3, np.float32, seed + 1)
    bands = backend.bands(np.ones(backend.plane.shells), 0, backend.plane.shells - 1, False)
    sums = backend.statistics(backend.reference(x), batch, bands).sum(axis=(0, 1))
    accumulator = backend.accumulator()
    backend.accumulate(accumulator, batch, one, one, one)
    b = backend.normal_equations(backend.folded(accumulator)).right_hand_side()
    # statistics has x and y over the box each, accumulate has y times it again
    assert inner(x, b) / box**2 == pytest.approx(sums[1], abs=2e-5 * np.sqrt(sums[0] * sums[2]))


def test_real_space_agrees_with_the_cpu(cupy, seed):
    box, (particle_set, images) = 24, particles(80, 24, seed)
    found = {}
    for name in ("cpu", "cuda"):
        backend = get_backend(name, box, 2.0, space="real")
        batch, weight = backend.prepare(images, particle_set), np.linspace(0, 2, 80)
        bands = backend.bands(np.ones(backend.plane.shells), 1, backend.plane.shells - 1, True)
        sums = backend.statistics(backend.reference(random_like((box,) * 3, np.float32, seed)), batch, bands)
        accumulator = backend.accumulator()
        backend.accumulate(accumulator, batch, weight, weight, weight)
        found[name] = sums, backend.folded(accumulator)
    for cpu, cuda in zip(found["cpu"], found["cuda"]):
        assert np.abs(cuda - cpu).max() < 1e-5 * np.abs(cpu).max()


@pytest.mark.parametrize("kind", RUNS)
def test_reconstruct_on_cuda_is_that_on_cpu(cupy, kind, cli, tmp_path):
    path = tmp_path / "particles.h5"
    made = cli("simulate", "--phantom", "--particles", 600, "--box", 48, "--pixel-size", 4, "--snr", 0.2,
               "--error-rate", 0.2, "-o", path)
    assert made.returncode == 0, made.stderr
    for backend in ("cpu", "cuda"):
        result = cli("reconstruct", path, "-o", tmp_path / backend, "--backend", backend, *RUNS[kind],
                     "--no-postprocess", timeout=300)
        assert result.returncode == 0, result.stderr
    assert_same_run(outcome(tmp_path / "cpu"), outcome(tmp_path / "cuda"))


def test_a_slab_that_is_streamed_gives_the_statistics_of_one_that_stays(cupy, seed, monkeypatch):
    from test_cuda_backend import Slab, visited

    from mpirecon.backend.memory import Plan

    slab, found = Slab(300), []
    for resident in (True, False):
        monkeypatch.setattr("mpirecon.backend.cuda.plan", lambda *_, kept=resident: Plan(kept, 37, 0, 0))
        backend = get_backend("cuda", 12, 2.0)
        for _ in range(2):
            found.append(visited(backend, slab, np.arange(300))[0])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-5 * np.abs(found[0]).max())


def test_arrays_of_the_device_pass_through_dlpack(cupy):
    volume = Volume(cupy.ones((4, 4, 4), "f4"), 1.0)
    assert volume.to_cupy() is volume.array
    back = Volume.from_dlpack(cupy.from_dlpack(volume), 1.0)
    assert back.array.data.ptr == volume.array.data.ptr
    stack = Stack(np.ones((2, 4, 4), "f4"), 1.0)
    assert isinstance(stack.to_cupy(), cupy.ndarray)
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        tensor = torch.from_dlpack(volume)
        assert tensor.is_cuda and tensor.data_ptr() == volume.array.data.ptr


def test_check_reports_the_device(cupy, cli):
    result = cli("check", "--json")
    gpus = json.loads(result.stdout)["ranks"][0]["gpus"]
    assert gpus["devices"] and gpus["driver"]
