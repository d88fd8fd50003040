"""References of fewer frequencies on the CUDA backend: those of the CPU backend. With a stand-in for CuPy."""

import json

import numpy as np
import pytest
from adjoint import random_like
from test_cuda_backend import fake_cupy, needs_compiler, particles  # noqa: F401 - fixtures

from mpirecon.backend import get_backend

BOX, COARSE = 100, 80


@pytest.fixture
def backends(fake_cupy):  # noqa: F811
    fake_cupy()
    return [get_backend(name, BOX, 2.0, interpolation={"taps": 3, "padding": 1.5}) for name in ("cpu", "cuda")]


@needs_compiler
def test_grids_and_statistics_of_a_coarse_map_are_those_of_the_cpu(backends):
    assert [backend.coarse_box(36) for backend in backends] == [COARSE] * 2
    volume, (some, images) = random_like((COARSE,) * 3, np.float32, 3), particles(m=3, box=BOX)
    cpu, cuda = (backend.reference(volume) for backend in backends)
    found = cuda.get().view(np.float32).reshape(cpu.shape)
    np.testing.assert_allclose(found, cpu, atol=2e-6 * np.abs(cpu).max())
    noise = np.ones((1, backends[0].plane.shells))
    expected, found = (
        backend.statistics(reference, backend.prepare(images, some), backend.bands(noise, 2, noise.size - 1, True))
        for backend, reference in zip(backends, (cpu, cuda))
    )
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@needs_compiler
def test_the_solution_of_the_middle_of_a_grid_is_that_of_the_cpu(backends):
    q = backends[0].projection.padded * COARSE // BOX
    folded = np.abs(random_like((q, q, q // 2 + 1, 3), np.float32, 4)) + 0.1
    cpu, cuda = (backend.normal_equations(folded) for backend in backends)
    ridge = cpu.ridge()
    np.testing.assert_allclose(cuda.ridge(), ridge, rtol=1e-5)
    expected = cpu.direct(ridge)
    np.testing.assert_allclose(cuda.direct(ridge), expected, atol=1e-5 * np.abs(expected).max())


@needs_compiler
def test_a_run_that_selects_is_that_of_the_cpu_in_boxes_with_coarse_references(cli, tmp_path, fake_cupy):  # noqa: F811
    fake_cupy()
    cli("simulate", "--phantom", "--particles", 16, "--box", BOX, "--pixel-size", 3, "--snr", 0.1, "--seed", 3, "-o",
        tmp_path / "p.h5")
    found = {}
    for name in ("cpu", "cuda"):
        out = tmp_path / name
        result = cli("reconstruct", tmp_path / "p.h5", "-o", out, "--loss", "sorted", "--keep", 0.8, "--iterations", 1,
                     "--folds", 2,
                     "--backend", name, "--no-postprocess")  # fmt: skip
        assert result.returncode == 0, result.stderr
        (record,) = json.loads((out / "summary.json").read_text())["iterations"]
        found[name] = np.array([record[key] for key in ("loss", "loss_l2", "loss_heldout")])
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-5)
