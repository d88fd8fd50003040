"""The CUDA sources, run on the host by g++ (tests/host_cuda):
against definitions in float64 and against their CPU twins.

With MPIRECON_KERNELS_ON=gpu the same tests run them on a GPU, through CuPy; tools/gpu_check does that.
"""

import ctypes
import glob
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import host_cuda
import numpy as np
import on_gpu
import pytest
from adjoint import inner, random_like
from kernel_definitions import SUM_ERROR, extended, hermitian_grid, interleaved, problem, rotations

import mpirecon.kernels
from mpirecon.kernels.backproject import make_backproject
from mpirecon.kernels.cuda_arguments import ctf_arguments, frequencies, rotation_arguments, shift_arguments
from mpirecon.kernels.cuda_source import SOURCES, Settings, cuda_source
from mpirecon.kernels.fold import extended_shape
from mpirecon.kernels.gridding import kernel_table
from mpirecon.kernels.project import make_project
from mpirecon.kernels.statistics import image_power, make_statistics, shell_power
from mpirecon.kernels.translate import gather_translated
from mpirecon.model import make_ctf
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.operators.half_plane import HalfPlane

needs_compiler = pytest.mark.skipif(host_cuda.compiler() is None, reason="needs a C++ compiler: install g++")
runs_kernels = pytest.mark.skipif(not on_gpu.wanted() and host_cuda.compiler() is None,
                                  reason="needs a C++ compiler: install g++")

#: taps and how many threads share a sample
VARIANTS = [(2, 1), (3, 4), (4, 1), (4, 4), (6, 2)]

i4, f4, f8, i8 = np.int32, np.float32, np.float64, np.int64


def run(name: str, blocks: int, *arguments, settings=Settings(threads=64), backwards=False, threads=None, shared=0):
    if on_gpu.wanted():
        return on_gpu.launch(name, blocks, threads or settings.threads, arguments, settings, shared)
    module = host_cuda.compile_source(cuda_source(settings))
    module.launch(name, blocks, threads or settings.threads, arguments, backwards)


def k_of(plane):
    return frequencies(plane.kx, plane.ky)


def small(taps, lanes, threads=64):
    """Blocks small enough that several warps, and idle threads, take part in small problems."""
    return Settings(taps=taps, lanes=lanes, threads=threads)


def size_of(p):
    side, _, floats = extended_shape(p, 1)
    return i4(side), i4(side), i4(floats)


# ---------------------------------------------------------------- sources


def test_every_line_is_numbered_as_in_its_file():
    text, file, number, seen = cuda_source(), None, 0, {}
    folder = Path(mpirecon.kernels.__file__).parent
    for line in text.splitlines():
        found = re.fullmatch(r'#line (\d+) "(.+)"', line)
        if found:
            number, file = int(found[1]), found[2]
            continue
        if file is not None and line:
            assert (folder / file).read_text().splitlines()[number - 1] == line, f"{file}:{number}"
            seen[file] = seen.get(file, 0) + 1
        number += 1
    assert set(seen) == {*(f"{name}.cu" for name in SOURCES), "common.cuh", "spline.cuh"} and min(seen.values()) > 5


@needs_compiler
def test_a_compiler_error_names_the_file_and_line():
    broken = cuda_source().replace("const Extent n = {nz, ny, nx};\n    const int lane",
                                   "const Extend n;\n    const int lane", 1)
    with pytest.raises(host_cuda.CompileError, match=r"project\.cu:\d+:.*Extend"):
        host_cuda.compile_source(broken)


@pytest.mark.parametrize("given", [dict(taps=5), dict(lanes=3), dict(taps=2, lanes=4), dict(threads=100),
                                   dict(threads=2048)])
def test_settings_that_no_kernel_has_are_refused(given):
    with pytest.raises(ValueError, match="taps|lanes|threads"):
        Settings(**given)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc to compile for sm_80 and sm_90")
@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
def test_nvcc_takes_every_source_without_spilling(chip, tmp_path):
    (tmp_path / "kernels.cu").write_text(cuda_source(Settings(taps=4, lanes=4)))
    command = ["nvcc", "-std=c++17", f"-arch={chip}", "-Xptxas", "--warn-on-spills", "-cubin", "-o", tmp_path / "out"]
    result = subprocess.run([*command, tmp_path / "kernels.cu"], capture_output=True, text=True)
    assert result.returncode == 0 and "warning" not in result.stderr, result.stderr


def nvrtc():
    """The run-time compiler that CuPy uses, from its wheel or a toolkit; skips where there is none."""
    spec = importlib.util.find_spec("nvidia")
    wheels = [f"{root}/**/libnvrtc.so.*" for root in (spec.submodule_search_locations if spec else [])]
    toolkits = ["/usr/local/cuda*/**/libnvrtc.so*"]
    found = [path for pattern in (*wheels, *toolkits) for path in sorted(glob.glob(pattern, recursive=True))]
    for path in (*found, "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc, or a CUDA toolkit")


@pytest.mark.parametrize("chip", ["80", "90"])
def test_nvrtc_takes_every_source(chip):
    """As CuPy compiles them: with no header of the toolkit at hand."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    text = cuda_source(Settings(taps=6, lanes=2)).encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(b"--std=c++17", f"--gpu-architecture=sm_{chip}".encode())
    failed = library.nvrtcCompileProgram(program, 2, options)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert failed == 0, log.value.decode()


# ---------------------------------------------------------------- projection


@runs_kernels
@pytest.mark.parametrize("taps, lanes", VARIANTS)
@pytest.mark.parametrize("box, p", [(8, 16), (5, 12)])
def test_project_is_a_weighted_sum_of_grid_points(box, p, taps, lanes):
    plane, rotation, full, ratio, expected = problem(box, p, taps)
    grid, out = interleaved(extended(full)), np.full(expected.shape, np.nan, np.complex64)
    run("project", len(rotation), grid.view(np.complex64), *size_of(p), rotation_arguments(rotation, ratio),
        k_of(plane), i4(len(plane)), out, settings=small(taps, lanes))  # fmt: skip
    assert np.abs(out - expected).max() < SUM_ERROR[taps] * np.abs(full).max()


def test_coordinates_keep_their_digits_in_large_boxes():
    """Plain float32 coordinates would be off by 2e-5 of a grid point here:
    high parts are exact, low parts bring the rest."""
    k = np.arange(-1023, 1024, 31)
    rotation = rotations(20, 4)
    high, low = np.split(rotation_arguments(rotation, 2.0), 2, axis=1)
    for x, y in ((k, 0 * k), (k, k[::-1]), (k, k)):
        exact = 2 * (rotation[:, 0, :, None] * x + rotation[:, 1, :, None] * y)
        products = [part[:, :3, None] * x.astype(f4) + part[:, 3:, None] * y.astype(f4) for part in (high, low)]
        assert all(product.dtype == f4 for product in products)
        in_float64 = high[:, :3, None].astype(f8) * x + high[:, 3:, None].astype(f8) * y
        np.testing.assert_array_equal(products[0], in_float64)
        assert np.abs(products[0].astype(f8) + products[1] - exact).max() < 3e-8


@runs_kernels
@pytest.mark.parametrize("taps, lanes", [(3, 4), (4, 1), (4, 4)])
@pytest.mark.parametrize("r", [np.eye(3), np.diag([1.0, -1, -1]), np.diag([-1.0, -1, 1]), np.eye(3)[[2, 0, 1]],
                               np.array([[1e-18, 1, 0], [-1, 1e-18, 0], [0, 0, 1]])])  # fmt: skip
def test_samples_on_grid_points_take_the_same_taps_as_the_twin(r, taps, lanes):
    """Coordinates that are whole numbers, or miss them by 1e-18: the tap at the edge of the kernel must be the same."""
    p, box = 16, 8
    plane, full = HalfPlane.of(box), hermitian_grid(p, 5)
    grid, rotation = interleaved(extended(full)), np.array([r])
    twin, out = np.empty((2, 1, len(plane)), np.complex64)
    make_project(taps)(grid, kernel_table(taps), rotation, 2.0, plane.kx, plane.ky, twin)
    run("project", 1, grid.view(np.complex64), *size_of(p), rotation_arguments(rotation, 2.0), k_of(plane),
        i4(len(plane)), out, settings=small(taps, lanes))  # fmt: skip
    np.testing.assert_allclose(out, twin, atol=2e-6 * np.abs(full).max())


# ---------------------------------------------------------------- backprojection


def spread_by_kernel(box, p, taps, lanes, rotation, numerator, weight, backwards=False):
    plane = HalfPlane.of(box)
    side, _, floats = extended_shape(p, 4)
    grid = np.zeros((side, side, floats // 4, 4), f4)
    run("backproject", len(rotation), grid, *size_of(p), rotation_arguments(rotation, p / box), k_of(plane),
        i4(len(plane)), numerator, weight, settings=small(taps, lanes), backwards=backwards)  # fmt: skip
    return grid


@runs_kernels
@pytest.mark.parametrize("taps, lanes", VARIANTS)
@pytest.mark.parametrize("box, p", [(8, 16), (5, 12)])
def test_backproject_is_the_twins(box, p, taps, lanes):
    plane, rotation = HalfPlane.of(box), rotations(5, 2)
    numerator, weight = random_like((5, len(plane)), np.complex64, 1), np.abs(random_like((5, len(plane)), f4, 2))
    twin = np.zeros(extended_shape(p, 3), f4)
    make_backproject(taps)(twin, kernel_table(taps), rotation, p / box, plane.kx, plane.ky, numerator, weight)
    grid = spread_by_kernel(box, p, taps, lanes, rotation, numerator, weight)
    np.testing.assert_allclose(grid[..., :3], twin.reshape(grid[..., :3].shape), atol=5e-6 * np.abs(twin).max())
    assert not grid[..., 3].any()
    other = spread_by_kernel(box, p, taps, lanes, rotation, numerator, weight, backwards=True)
    np.testing.assert_allclose(other, grid, atol=2e-6 * np.abs(twin).max())


@runs_kernels
@pytest.mark.parametrize("taps, lanes", VARIANTS)
def test_backproject_is_the_adjoint_of_project(taps, lanes):
    box, p = 8, 16
    plane, rotation = HalfPlane.of(box), rotations(4, 6)
    full = hermitian_grid(p, 7)
    grid = np.ascontiguousarray(extended(full).astype(np.complex64))
    slices = np.empty((4, len(plane)), np.complex64)
    run("project", 4, grid, *size_of(p), rotation_arguments(rotation, 2.0), k_of(plane), i4(len(plane)), slices,
        settings=small(taps, lanes))  # fmt: skip
    y = random_like(slices.shape, np.complex64, 8)
    back = spread_by_kernel(box, p, taps, lanes, rotation, y, np.zeros(y.shape, f4))
    left, right = inner(slices, y), inner(grid, back[..., 0] + 1j * back[..., 1])
    assert abs(left - right) <= 1e-6 * np.sqrt(inner(slices, slices) * inner(y, y))


# ---------------------------------------------------------------- the fused passes


def particles(box, m, seed=0):
    """Images' transforms, shifts, rotations, and CTFs of many kinds."""
    rng = np.random.default_rng(seed)
    ctf = make_ctf(m, voltage_kv=300, defocus_u=rng.uniform(5e3, 3e4, m), defocus_v=rng.uniform(5e3, 3e4, m), cs_mm=2.7,
                   amplitude_contrast=0.1, astigmatism=rng.uniform(-3, 3, m), bfactor=20.0 * rng.integers(0, 2, m),
                   phase_shift=rng.uniform(-9, 9, m), scale=rng.uniform(0.5, 1, m))  # fmt: skip
    spectra = np.fft.rfft2(rng.standard_normal((m, box, box))).astype(np.complex64)
    return spectra, rng.uniform(-9, 9, (m, 2)), rotations(m, seed + 1), ctf


def twin_samples(spectra, shift, ctf, plane, pixel_size):
    """The CPU backend's centred samples and CTFs."""
    from mpirecon.operators.ctf import ctf_samples

    data = np.empty((len(spectra), len(plane)), np.complex64)
    gather_translated(spectra, shift + plane.box // 2, plane.kx, plane.ky, data)
    return data / f4(plane.box), ctf_samples(ctf, plane, pixel_size)


#: no aberrations
PLAIN_OPTICS = (None, None, None, None)


def image_arguments(kind, spectra, shift, data, row, optics=PLAIN_OPTICS):
    """The kernels' words for images: centred samples in scattered rows, or transforms with the shift still in them."""
    box = spectra.shape[1]
    if kind == "samples":
        scattered = np.full((row.max() + 2, data.shape[1]), np.nan, np.complex64)
        scattered[row] = data
        return scattered, row, None, i8(data.shape[1]), f4(1), i4(box), *optics
    scattered = np.full((row.max() + 2, *spectra.shape[1:]), np.nan, np.complex64)
    scattered[row] = spectra
    return scattered, row, shift_arguments(shift, box), i8(spectra[0].size), f4(1 / box), i4(box), *optics


def by_band(band, bands=6):
    """Samples in the order of their band, and where each band begins."""
    index = np.concatenate([np.flatnonzero(band == b) for b in range(bands)]).astype(i4)
    return index, np.concatenate([[0], np.cumsum([np.sum(band == b) for b in range(bands)])]).astype(i4)


@runs_kernels
@pytest.mark.parametrize("kind", ["samples", "transforms"])
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("taps, lanes, box", [(2, 1, 9), (3, 4, 9), (4, 1, 9), (4, 4, 16), (6, 2, 16)])
def test_statistics_are_the_twins(kind, mode, taps, lanes, box):
    m, p, pixel_size = 7, 2 * box + box % 2 * 2, 1.3
    plane, full = HalfPlane.of(box), hermitian_grid(p, 3) / p
    spectra, shift, rotation, ctf = particles(box, m)
    data, ctfs = twin_samples(spectra, shift, ctf, plane, pixel_size)
    rng = np.random.default_rng(1)
    gain = rng.uniform(0.5, 2, (2, len(plane))).astype(f4)
    band = np.where(plane.shell < 1, -1, np.minimum(plane.shell // 2, 5)).astype(np.int8)  # a band may be empty
    group = rng.integers(0, 2, m).astype(i4)
    grid = interleaved(extended(full))
    expected = np.empty((m, 6, 3))
    for i in range(m):
        make_statistics(taps)(grid, kernel_table(taps), rotation[i : i + 1], p / box, plane.kx, plane.ky,
                              data[i : i + 1],
                              ctfs[i : i + 1], gain[group[i]], band, mode, expected[i : i + 1])  # fmt: skip
    index, first = by_band(band)
    row = rng.permutation(m + 3)[:m].astype(i4)
    results = []
    for backwards in (False, True):
        out = np.full((m, 6, 3), np.nan)
        run("statistics", m, grid.view(np.complex64), *size_of(p), rotation_arguments(rotation, p / box),
            ctf_arguments(ctf_coefficients(ctf, box, pixel_size)), *image_arguments(kind, spectra, shift, data, row),
            k_of(plane), i4(len(plane)), index, first, np.ascontiguousarray(gain[:, index]), group, i4(len(index)),
            i4(mode), out,
            settings=small(taps, lanes), backwards=backwards)  # fmt: skip
        results.append(out)
    size = np.sqrt(expected[:, :, :1] * expected[:, :, 2:])  # of yp, by Cauchy and Schwarz
    scale = np.concatenate([expected[:, :, :1], size, expected[:, :, 2:]], axis=2)
    assert (np.abs(results[0] - expected) <= 1e-5 * scale).all()
    np.testing.assert_array_equal(results[0], results[1])  # sums in a fixed order: no race, and the same bits


@runs_kernels
def test_statistics_lose_no_digits_in_many_samples():
    """Float32 sums of a thread, float64 sums of threads: measured against float64 throughout, at box 96."""
    taps, box, m = 4, 96, 3
    plane = HalfPlane.of(box)
    full = hermitian_grid(2 * box, 3) / (2 * box)
    spectra, shift, rotation, ctf = particles(box, m)
    data, ctfs = twin_samples(spectra, shift, ctf, plane, 1.3)
    grid = interleaved(extended(full)).view(np.complex64)
    slices = np.empty((m, len(plane)), np.complex64)
    arguments = rotation_arguments(rotation, 2.0)
    settings = small(taps, 1)
    run("project", m, grid, *size_of(2 * box), arguments, k_of(plane), i4(len(plane)), slices, settings=settings)
    band = np.zeros(len(plane), np.int8)
    index, first = by_band(band)
    out = np.empty((m, 6, 3))
    row = np.arange(m, dtype=i4)
    run("statistics", m, grid, *size_of(2 * box), arguments,
        ctf_arguments(ctf_coefficients(ctf, box, 1.3)), *image_arguments("samples", spectra, shift, data, row),
        k_of(plane),
        i4(len(plane)), index, first, np.ones((1, len(plane)), f4), np.zeros(m, i4), i4(len(index)), i4(0), out,
        settings=settings)  # fmt: skip
    model = slices.astype(complex) * ctfs
    exact = [inner(a, b) for i in range(m) for a, b in ((data[i], data[i]), (model[i], data[i]), (model[i], model[i]))]
    error = np.abs(out[:, 0].ravel() - exact) / np.repeat(np.sqrt(out[:, 0, 0] * out[:, 0, 2]), 3)
    assert error.max() < 5e-7


@runs_kernels
@pytest.mark.parametrize("kind", ["samples", "transforms"])
@pytest.mark.parametrize("per_shell", [False, True])
@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("taps, lanes", [(3, 4), (4, 4), (6, 2)])
def test_accumulate_is_the_twins(kind, per_shell, premultiplied, taps, lanes):
    box, m, pixel_size = 9, 6, 1.3
    p = 20
    plane = HalfPlane.of(box)
    spectra, shift, rotation, ctf = particles(box, m)
    data, ctfs = twin_samples(spectra, shift, ctf, plane, pixel_size)
    rng = np.random.default_rng(2)
    weight = rng.uniform(0.5, 2, m).astype(f4)
    weight[2] = 0
    contrast, contrast2 = rng.uniform(0.5, 2, (2, m, plane.shells) if per_shell else (2, m)).astype(f4)
    s, s2 = (c[:, plane.shell] if per_shell else c[:, None] for c in (contrast, contrast2))
    halved = np.where((plane.kx == 0) & (plane.ky == 0), f4(0.5), f4(1))
    numerator = (weight[:, None] * s * box * halved * (1 if premultiplied else ctfs) * data).astype(np.complex64)
    twin = np.zeros(extended_shape(p, 3), f4)
    make_backproject(taps)(twin, kernel_table(taps), rotation, p / box, plane.kx, plane.ky, numerator,
                           (weight[:, None] * s2 * halved * ctfs**2).astype(f4))  # fmt: skip
    side, _, floats = extended_shape(p, 4)
    grid = np.zeros((side, side, floats // 4, 4), f4)
    row = np.arange(m, dtype=i4)[::-1].copy()
    run("accumulate", m, grid, *size_of(p), rotation_arguments(rotation, p / box),
        ctf_arguments(ctf_coefficients(ctf, box, pixel_size)), *image_arguments(kind, spectra, shift, data, row),
        k_of(plane),
        plane.shell.astype(i4), i4(len(plane)), weight, contrast, contrast2, i4(plane.shells if per_shell else 1),
        i4(per_shell), f4(box), i4(premultiplied), settings=small(taps, lanes))  # fmt: skip
    error = np.abs(grid[..., :3] - twin.reshape(grid[..., :3].shape)).max(axis=(0, 1, 2))
    largest = np.abs(twin.reshape(-1, 3)).max(axis=0)
    assert (error <= 1e-5 * largest).all(), error / largest


@runs_kernels
@pytest.mark.parametrize("kind", ["samples", "transforms"])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_powers_are_the_twins(kind, premultiplied):
    box, m, pixel_size = 9, 5, 1.3
    plane = HalfPlane.of(box)
    spectra, shift, _, ctf = particles(box, m)
    data, ctfs = twin_samples(spectra, shift, ctf, plane, pixel_size)
    row = np.array([3, 0, 1, 5, 2], i4)
    common = (ctf_arguments(ctf_coefficients(ctf, box, pixel_size)), *image_arguments(kind, spectra, shift, data, row),
              k_of(plane), i4(len(plane)), plane.multiplicity)  # fmt: skip
    expected, out = np.empty((2, m))
    image_power(data, ctfs, plane.multiplicity, premultiplied, expected)
    run("image_power", m, *common, i4(premultiplied), out, settings=small(4, 1))
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    weight = np.array([1.0, 0.25, 0.0, 3.0, -1.0])
    power, count = np.ones((2, plane.shells))
    shell_power(data, ctfs, weight, plane.multiplicity, plane.shell, premultiplied, power, count)
    index = np.argsort(plane.shell, kind="stable").astype(i4)
    first = np.searchsorted(plane.shell[index], np.arange(plane.shells + 1)).astype(i4)
    mine = np.ones((2, plane.shells))
    run("shell_power", plane.shells, *common, index, first, weight, i4(m), i4(premultiplied), *mine,
        settings=small(4, 1))
    np.testing.assert_allclose(mine, [power, count], rtol=1e-6)


# ---------------------------------------------------------------- the shim itself


@needs_compiler
def test_the_shim_finds_barriers_that_not_all_threads_reach():
    source = ('extern "C" __global__ void odd(int n) { if (threadIdx.x < n) __syncthreads(); else __shfl_xor_sync(~0u, '
              '1, 1); }')
    program = (
        f"import host_cuda, numpy as np; host_cuda.compile_source({source!r}).launch('odd', 1, 64, (np.int32(8),))"
    )
    folder = Path(host_cuda.__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)
    assert result.returncode and "not all threads reach" in result.stderr


@needs_compiler
def test_the_shim_finds_races_by_running_threads_backwards():
    source = """extern "C" __global__ void racing(int* out) {
        __shared__ int last; last = threadIdx.x; out[threadIdx.x] = last; __syncthreads(); out[threadIdx.x] = last; }"""
    module, out = host_cuda.compile_source(source), np.zeros((2, 64), i4)
    for row, backwards in zip(out, (False, True)):
        module.launch("racing", 1, 64, (row,), backwards)
    assert (out[0] == 63).all() and (out[1] == 0).all()


@needs_compiler
@pytest.mark.parametrize("backwards", [False, True])
def test_the_shims_lanes_exchange_what_each_had_and_shared_memory_is_not_zero(backwards):
    """Shuffles one right after the other, in several warps, with a barrier between; in every block anew."""
    source = """extern "C" __global__ void sums(int* out, int* found) {
        extern __shared__ int shared[];
        found[64 * blockIdx.x + threadIdx.x] = shared[threadIdx.x];
        __syncthreads();
        int sum = threadIdx.x + blockIdx.x;
        for (int mask = 1; mask < 32; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
        shared[threadIdx.x] = sum;
        __syncthreads();
        out[64 * blockIdx.x + threadIdx.x] = shared[(threadIdx.x + 32) % 64]; }"""
    out, found = np.zeros((2, 3, 64), i4)
    host_cuda.compile_source(source).launch("sums", 3, 64, (out, found), backwards)
    lanes = np.arange(64).reshape(2, 32).sum(axis=1)[::-1].repeat(32)
    np.testing.assert_array_equal(out, lanes + 32 * np.arange(3)[:, None])
    np.testing.assert_array_equal(found, 0x7F7F7F7F)


@needs_compiler
@pytest.mark.parametrize("arguments, said", [((), "takes 2 arguments"),
                                             ((np.zeros(2), i4(1)), "expected an array of float32"),
                                             ((np.zeros(2, f4), 1), "expected int32"),
                                             ((f4(1), i4(1)), "expected an array"),
                                             ((np.zeros((2, 2), f4)[:, 0], i4(1)), "not C-contiguous")])  # fmt: skip
def test_the_shim_refuses_arguments_a_gpu_would_misread(arguments, said):
    module = host_cuda.compile_source('extern "C" __global__ void set(float* out, int n) { out[0] = n; }')
    with pytest.raises((TypeError, ValueError), match=said):
        module.launch("set", 1, 32, arguments)
