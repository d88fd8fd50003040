"""The CUDA backend without a GPU: a stand-in for CuPy (tests/fake_cupy) runs the very kernels on the host, and
everything that is measured must agree with the CPU backend.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import host_cuda
import numpy as np
import pytest
from adjoint import random_like

from mpirecon.backend import get_backend
from mpirecon.backend.memory import Plan, comparing_bytes, plan, stream_bytes_per_image
from mpirecon.backend.store import ImageStore
from mpirecon.errors import UserError
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.aberrations import Aberrations
from mpirecon.solvers.timing import Timings

TESTS = Path(__file__).resolve().parent
FAKE = TESTS / "fake_cupy"

needs_compiler = pytest.mark.skipif(host_cuda.compiler() is None, reason="needs a C++ compiler: install g++")


def fake_environment(**settings) -> dict[str, str]:
    """What a process needs to see the stand-in; small blocks, for fibers are slow."""
    return {"PYTHONPATH": f"{FAKE}{os.pathsep}{TESTS}", "FAKE_CUPY": json.dumps(settings),
            "MPIRECON_CUDA_THREADS": "32"}


@pytest.fixture
def fake_cupy(monkeypatch):
    """``fake_cupy(**settings)``: the stand-in as the module cupy of this process, until the test ends."""

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupy_backends")]:
            del sys.modules[name]

    def load(**settings):
        forget()
        for name, value in fake_environment(**settings).items():
            if name != "PYTHONPATH":
                monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(str(FAKE))
        return None if "import_error" in settings else importlib.import_module("cupy")

    yield load
    forget()


def particles(m=13, box=12, seed=0):
    rng = np.random.default_rng(seed)
    pose = Pose(rng.standard_normal((m, 4)), rng.uniform(-6, 6, (m, 2)))
    ctf = make_ctf(m, voltage_kv=300, defocus_u=rng.uniform(5e3, 2e4, m), defocus_v=1e4, cs_mm=2.7,
                   amplitude_contrast=0.1,
                   astigmatism=rng.uniform(-3, 3, m))  # fmt: skip
    found = ParticleSet(box, 2.0, pose, ctf, 1 + np.arange(m) % 2, 3 + 4 * (np.arange(m) % 2))
    return found, random_like((m, box, box), np.float32, seed + 1)


def aberrations() -> Aberrations:
    """Of optics groups 3 and 7: magnification, odd and even phases, a detector."""
    rng = np.random.default_rng(5)
    return Aberrations([3, 7], np.eye(2) + rng.uniform(-0.02, 0.02, (2, 2, 2)), rng.uniform(-3, 3, (2, 6)),
                       rng.uniform(-3, 3, (2, 9)), np.linspace(1, [0.5, 0.8], 8).T)  # fmt: skip


def measure(backend, images, particle_set, contrast, whitened=True):
    """Everything a run asks of a backend, by name."""
    m, n = len(particle_set), particle_set.box
    group = np.arange(m) % 2
    batch = backend.prepare(images, particle_set, group)
    shells = backend.plane.shells
    power, count = np.zeros((2, shells))
    weight = np.where(np.arange(m) == 4, 0, 0.5 + np.arange(m) % 3)
    backend.add_spectrum(batch, weight, power, count)
    bands = backend.bands(np.linspace(0.5, 2, 2 * shells).reshape(2, -1), 2, shells - 1, whitened)
    reference = backend.reference(random_like((n, n, n), np.float32, 3))
    some = np.arange(m) % 3 == 0
    q = random_like((int(some.sum()), 4), np.float64, 9)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    other = backend.rotations(q, particle_set.optics_group[some])
    accumulator = backend.accumulator()
    if contrast == "per shell":
        s, s2 = np.random.default_rng(1).uniform(0.5, 2, (2, m, shells))
    else:
        s, s2 = np.random.default_rng(1).uniform(0.5, 2, (2, m))
    backend.accumulate(accumulator, batch, weight, s, s2)
    backend.accumulate(accumulator, batch[[1, 0]], np.zeros(2), s[:2], s2[:2])  # nobody
    folded = backend.folded(accumulator)
    equations = backend.normal_equations(folded)
    ridge = equations.ridge()
    volume, residuals = equations.solve(ridge, 4)
    x = random_like(volume.shape, np.float32, 8)
    near = dict(
        zip(("turn", "near", "slope", "curvature"), backend.nearby(reference, batch, bands, np.array([2, 5]), 100.0))
    )
    return near | {
        "power": backend.power(batch), "spectrum": power, "count": count, "folded": folded, "ridge": ridge,
        "statistics": backend.statistics(reference, batch, bands),
        "elsewhere": backend.statistics(reference, batch[some], bands, other),
        "volume": volume, "residuals": np.array(residuals), "direct": equations.direct(ridge),
        "gradient": equations.gradient(x, ridge), "precondition": equations.precondition(x, ridge),
        "right_hand_side": equations.right_hand_side(), "apply": equations.apply(x, ridge),
    }  # fmt: skip


#: largest difference of the two backends, relative to the largest number
TOLERANCE = {"turn": 1e-3, "near": 1e-3, "slope": 1e-2, "curvature": 1e-3, "statistics": 1e-6, "elsewhere": 1e-6,
             "volume": 1e-5, "residuals": 1e-4, "gradient": 1e-5, "apply": 1e-5}


@needs_compiler
@pytest.mark.parametrize(
    "taps, padding, box, limit, premultiplied, contrast, aberrated",
    [(4, 2, 12, None, False, "one", False), (4, 1.5, 13, 5.0, True, "per shell", True),
     (3, 1.5, 12, None, False, "per shell", False), (4, 2, 12, None, False, "one", True)],
)  # fmt: skip
@pytest.mark.parametrize("backwards", ["", "1"])
def test_everything_agrees_with_the_cpu_backend(
    fake_cupy, monkeypatch, taps, padding, box, limit, premultiplied, contrast, aberrated, backwards
):
    monkeypatch.setenv("FAKE_CUPY_BACKWARDS", backwards)
    fake_cupy()
    particle_set, images = particles(box=box)
    options = {"interpolation": {"taps": taps, "padding": padding}, "limit": limit, "premultiplied": premultiplied,
               "aberrations": aberrations() if aberrated else None}
    cpu, cuda = (measure(get_backend(name, box, 2.0, **options), images, particle_set, contrast)
                 for name in ("cpu", "cuda"))
    for name, expected in cpu.items():
        assert isinstance(cuda[name], np.ndarray) and cuda[name].dtype == expected.dtype
        error = np.abs(cuda[name] - expected).max() / np.abs(expected).max()
        assert error < TOLERANCE.get(name, 3e-6), f"{name}: {error:.2g}"


@needs_compiler
def test_raw_premultiplied_statistics_agree_too(fake_cupy):
    fake_cupy()
    particle_set, images = particles()
    cpu, cuda = (measure(get_backend(name, 12, 2.0, premultiplied=True), images, particle_set, "one",
                         whitened=False)["statistics"]
                 for name in ("cpu", "cuda"))  # fmt: skip
    np.testing.assert_allclose(cuda, cpu, atol=1e-6 * np.abs(cpu).max())


# ---------------------------------------------------------------- the slab: resident, streamed, short of memory


class Slab:
    """What an ImageStore needs of a ParticleSlab."""

    def __init__(self, m=50, box=12) -> None:
        self.metadata, self.pixels = particles(m, box, seed=2)
        self.pose = self.metadata.pose
        self.noise_group = np.arange(m) % 2
        self.reads = []

    def __len__(self) -> int:
        return len(self.metadata)

    def order(self):
        return np.arange(len(self))

    def read(self, rows):
        self.reads.append(rows.copy())
        return self.pixels[rows]


def visited(store, rows):
    """Statistics of rows, as the pieces come, and how long these were."""
    backend, slab = store.backend, store.slab
    bands = backend.bands(np.ones((2, backend.plane.shells)), 2, backend.plane.shells - 1, True)
    reference = backend.reference(random_like((12, 12, 12), np.float32, 3))
    out, lengths = np.full((len(slab), 6, 3), np.nan), []
    for part, batch in store.visit(rows, slab.read, Timings()):
        out[part] = backend.statistics(reference, batch, bands)
        lengths.append(len(part))
    return out[rows], lengths


def expected_of(slab, rows):
    cpu = get_backend("cpu", 12, 2.0)
    bands = cpu.bands(np.ones((2, cpu.plane.shells)), 2, cpu.plane.shells - 1, True)
    reference = cpu.reference(random_like((12, 12, 12), np.float32, 3))
    return cpu.statistics(reference, cpu.prepare(slab.pixels[rows], slab.metadata[rows], slab.noise_group[rows]), bands)


ROWS = np.array([3, 4, 10, 11, 12, 30, 44, 49])


@needs_compiler
def test_a_slab_that_fits_is_read_once(fake_cupy):
    fake_cupy()
    backend, slab = get_backend("cuda", 12, 2.0), Slab()
    store = ImageStore(backend, slab)
    found, _ = visited(store, np.arange(50))
    assert backend.plan.resident and sum(map(len, slab.reads)) == 50
    np.testing.assert_allclose(found, expected_of(slab, np.arange(50)), rtol=1e-5, atol=1e-4)
    found, lengths = visited(store, ROWS)
    assert sum(map(len, slab.reads)) == 50 and lengths == [8]
    np.testing.assert_allclose(found, expected_of(slab, ROWS), rtol=1e-5, atol=1e-4)


def memory_for(images: int, m: int) -> int:
    """Bytes in which the grids of box 12, m particles without their images, and so many images on their way fit."""
    return int((comparing_bytes(24) + images * (stream_bytes_per_image(12) + 256) + 96 * m) / 0.92) + 1000


@needs_compiler
def test_a_slab_that_does_not_fit_is_streamed_in_short_batches(fake_cupy):
    fake_cupy(memory=memory_for(7, 3000) + 5000)
    backend, slab = get_backend("cuda", 12, 2.0), Slab(3000)
    rows = np.sort(np.random.default_rng(0).permutation(3000)[:40])
    store = ImageStore(backend, slab)
    for _ in range(2):
        found, lengths = visited(store, rows)
        np.testing.assert_allclose(found, expected_of(slab, rows), rtol=1e-5, atol=1e-4)
    assert not backend.plan.resident and max(lengths) <= 10 < len(rows)
    assert sum(map(len, slab.reads)) == 80 and np.array_equal(np.concatenate(slab.reads[: len(slab.reads) // 2]), rows)


@needs_compiler
def test_a_forecast_that_was_too_bold_is_met_by_shorter_batches(fake_cupy, monkeypatch):
    cupy = fake_cupy()
    backend, slab = get_backend("cuda", 12, 2.0), Slab()
    store = ImageStore(backend, slab)
    monkeypatch.setattr("mpirecon.backend.cuda.plan", lambda *_: Plan(True, 50, 0, 0))
    # room for the metadata and a few images, not for the slab's samples
    cupy.SETTINGS["memory"] = cupy.MEMORY.used + 50 * 84 + 20_000
    for _ in range(2):
        parts = [part for part, _ in store.visit(np.arange(50), slab.read, Timings())]
    assert sum(map(len, slab.reads)) == 100 and len(parts) > 1 and np.array_equal(np.concatenate(parts), np.arange(50))


@needs_compiler
def test_not_even_one_image_is_an_error_with_a_remedy(fake_cupy):
    cupy = fake_cupy()
    backend, slab = get_backend("cuda", 12, 2.0), Slab()
    store = ImageStore(backend, slab)
    list(store.visit(np.arange(0), slab.read, Timings()))  # whose memory for what is beside the images is taken then
    cupy.SETTINGS["memory"] = cupy.MEMORY.used + 600
    with pytest.raises(UserError, match="ran out of memory with a batch of one image.*--backend cpu"):
        list(store.visit(np.arange(50), slab.read, Timings()))


@needs_compiler
def test_an_error_in_the_reading_thread_arrives(fake_cupy):
    fake_cupy()
    backend, slab = get_backend("cuda", 12, 2.0), Slab()

    def read(rows):
        raise UserError("the image of particle 3 contains NaN")

    with pytest.raises(UserError, match="particle 3"):
        list(ImageStore(backend, slab).visit(ROWS, read, Timings()))


def test_plans():
    gib = 2**30
    small = plan(80 * gib, 256, 512, 25_000, 100_000)
    assert small.resident and small.needed < small.free and 100 <= small.rows <= 1000
    large = plan(24 * gib, 256, 512, 25_000, 1_000_000)
    assert not large.resident and large.rows >= 100
    assert plan(80 * gib, 256, 512, 25_000, 3).rows == 3
    with pytest.raises(UserError, match="4 GB free.*box 384 needs at least 9.* GB.*--backend cpu"):
        plan(4 * gib, 384, 768, 57_000, 1000)


def test_settings_from_the_environment_that_no_kernel_has(fake_cupy, monkeypatch):
    fake_cupy()
    for name, value in (("LANES", "3"), ("THREADS", "many")):
        monkeypatch.setenv("MPIRECON_CUDA_THREADS", "32")
        monkeypatch.setenv(f"MPIRECON_CUDA_{name}", value)
        with pytest.raises(UserError, match=f"MPIRECON_CUDA_{name}={value}"):
            get_backend("cuda", 12, 2.0)


def test_boxes_that_the_kernels_cannot_count_are_refused(fake_cupy):
    fake_cupy()
    with pytest.raises(UserError, match="boxes up to 2048, got 2050"):
        get_backend("cuda", 2050, 1.0)


# ---------------------------------------------------------------- the stand-in is no better than the real thing


@needs_compiler
def test_the_stand_in_refuses_what_cupy_refuses(fake_cupy):
    cupy = fake_cupy(memory=1000)
    array = cupy.asarray(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError):
        array + np.ones(3)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="allocating 4,000 bytes"):
        cupy.empty(1000, np.float32)
    del array
    assert cupy.MEMORY.used == 0
    assert np.isnan(cupy.empty(10, np.float32).get()).all()


def test_the_stand_in_has_the_signatures_of_cupy():
    """Needs the real CuPy, but no GPU."""
    real = pytest.importorskip("cupy", reason="needs CuPy to compare the stand-in with (no GPU): pip install "
                               "cupy-cuda12x")
    if "fake_cupy" in (real.__file__ or ""):
        pytest.skip("the stand-in is imported as cupy")
    listing = subprocess.run([sys.executable, "-c", _LIST], capture_output=True, text=True, cwd=FAKE, check=True,
                             env={**os.environ, "PYTHONPATH": str(FAKE)})  # fmt: skip
    for path, parameters in json.loads(listing.stdout).items():
        found = real
        for part in path.split("."):
            if part == "nccl" and not hasattr(found, "nccl"):
                break  # CuPy has it where the library is installed
            found = getattr(found, part)
        else:
            if parameters is None:
                continue
            try:
                known = inspect.signature(found)
            except (TypeError, ValueError):
                text = (found.__doc__ or "").strip().split("\n")[0]
                assert all(name in text or not text for name in parameters), path
                continue
            names = list(known.parameters)
            if "kwargs" not in names and "args" not in names:
                assert [n for n in names
                        if n != "self"][: len(parameters)] == parameters or set(parameters) <= set(names), path
    # what calls return: the stand-in's may do no more than CuPy's
    assert not hasattr(real.cuda.PinnedMemoryPointer, "__len__") and hasattr(real.cuda.PinnedMemoryPointer, "size")
    for kind, names in ((real.cuda.Stream, ("synchronize", "wait_event", "record")),
                        (real.cuda.Event, ("synchronize", "record")),
                        (real.cuda.MemoryPool, ("free_all_blocks", "free_bytes")),
                        (real.ndarray, ("get", "set", "conj", "take"))):
        assert all(hasattr(kind, name) for name in names), kind


_LIST = """
import inspect, json, cupy
out = {}
def add(path, value):
    try:
        names = [n for n in inspect.signature(value).parameters if n != "self" and not n.startswith("_")]
    except (TypeError, ValueError):
        names = None
    out[path] = names
def walk(path, holder):
    for name, value in vars(holder).items():
        if name.startswith("_") or inspect.ismodule(value) or not callable(value) and not isinstance(value, property):
            continue
        if getattr(value, "__module__", "").partition(".")[0] not in ("cupy", "") and not isinstance(value, property):
            continue
        where = f"{path}.{name}".strip(".")
        add(where, value) if not isinstance(value, property) else out.__setitem__(where, None)
        if inspect.isclass(value):
            walk(where, value)
walk("", cupy)
for module in ("cuda", "cuda.runtime", "cuda.memory", "fft", "cuda.compiler"):
    holder = cupy
    for part in module.split("."):
        holder = getattr(holder, part)
    walk(module, holder)
out = {k: v for k, v in out.items() if not k.startswith("RawModule.backwards")}
print(json.dumps(out))
"""


def test_nouns_on_a_gpu(fake_cupy):
    from mpirecon.model import Stack, Volume

    cupy = fake_cupy()
    volume = Volume(cupy.ones((4, 4, 4), np.float32), 1.0)
    assert volume.device == "cuda:0" and volume.to_cupy() is volume.array
    np.testing.assert_array_equal(volume.to_numpy(), np.ones((4, 4, 4)))
    back = Volume.from_dlpack(cupy.from_dlpack(volume), 1.0)
    assert back.array.data.ptr == volume.array.data.ptr
    stack = Stack(np.ones((2, 4, 4), np.float32), 1.0)
    np.testing.assert_array_equal(stack.to_cupy().get(), stack.array)
    pose = Pose(cupy.asarray(np.array([[2.0, 0, 0, 0]])), np.zeros((1, 2)))
    np.testing.assert_array_equal(pose.quaternion, [[1, 0, 0, 0]])
    assert pose.to_cupy()[0].dtype == np.float64
    fake_cupy(devices=0, error="cudaErrorNoDevice: none")
    with pytest.raises(UserError, match="need CuPy and a device that works.*NoDevice"):
        stack.to_cupy()
