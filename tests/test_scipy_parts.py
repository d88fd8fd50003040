"""What is taken of SciPy without loading it: the same numbers, whatever SciPy is found, and SciPy loads after it."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import CHECKOUT
from scipy.spatial import ConvexHull
from scipy_twins import compare

from mpirecon.validate.coverage import bin_centres, view_bins
from mpirecon.validate.sphericity import triangles


def test_the_numbers_are_scipys():
    compare()


#: what a process finds of SciPy's extension modules: what they are; none; others of that name
FOUND = {
    "by themselves": "pass",
    "none": "parts.part = lambda name: None",
    "others": "parts.part = lambda name: types.SimpleNamespace(r2c=lambda *a: None, _label=lambda: 0)",
    "other numbers": "parts.part = lambda name: types.SimpleNamespace(**dict.fromkeys(('r2c', 'c2r', 'c2c'), "
                     "lambda x, *a: np.zeros((2, 4), np.complex64)))",
}


@pytest.mark.parametrize("kind", FOUND)
def test_scipys_packages_stand_in_and_can_be_loaded_after(kind):
    program = f"""
import sys, types
import numpy as np
from mpirecon.kernels import scipy_parts as parts
{FOUND[kind]}
from mpirecon.kernels import fft
from mpirecon.validate.shapes import distance_to
fft.rfft(np.ones(4)), distance_to(np.ones((2, 2, 2), bool))
print(sorted({{"scipy.fft", "scipy.ndimage"}} & set(sys.modules)))
from scipy_twins import compare
compare()
import scipy.fft, scipy.ndimage, scipy.signal
print(scipy.fft.fft([1.0, 1.0]), scipy.ndimage.label([1, 0, 1])[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT / "tests")
    loaded = [] if kind == "by themselves" else ["scipy.fft", "scipy.ndimage"]
    assert done.stdout.splitlines() == [str(loaded), "[2.-0.j 0.-0.j] 2"], done.stdout + done.stderr


def test_a_name_that_is_nowhere():
    from mpirecon.kernels.scipy_parts import part

    assert part("scipy.fft._nowhere.nothing") is None and part("scipy.fft._pocketfft.nothing") is None
    assert "scipy.fft._pocketfft.nothing" not in sys.modules


def test_workers_are_those_of_the_thread_that_asks():
    program = """
import threading, types
import numpy as np
from mpirecon.kernels import scipy_parts as parts
engine, seen = parts.part("scipy.fft._pocketfft.pypocketfft"), []
def r2c(*given):
    seen.append(given[-1])
    return engine.r2c(*given)
parts.part = lambda name: types.SimpleNamespace(r2c=r2c, c2r=engine.c2r, c2c=engine.c2c)
from mpirecon.kernels import fft
fft.rfft(np.ones(4))
del seen[:]
with fft.workers_of(2):
    with fft.workers_of(5):
        fft.rfft(np.ones(4))
    fft.rfft2(np.ones((4, 4)))
    fft.rfftn(np.ones(4), workers=3)
    other = threading.Thread(target=lambda: fft.rfft(np.ones(4)))
    other.start()
    other.join()
fft.rfft(np.ones(4))
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[5, 2, 3, 1, 1]\n", done.stdout + done.stderr


@pytest.mark.parametrize("count", [10, 30, 100, 200, 500])
def test_triangles_are_those_of_the_convex_hull(count):
    """Points on one circle can be joined in several ways: then all others must be beneath each triangle's plane."""
    top, rings = view_bins(count)
    direction = bin_centres(top, rings)
    points, faces = np.concatenate([direction, -direction]), triangles(direction, rings)
    p, q, r = points[faces].transpose(1, 0, 2)
    normal = np.cross(q - p, r - p)
    normal *= np.sign((normal * p).sum(axis=1))[:, None]
    assert ((points @ normal.T).max(axis=0) - (normal * p).sum(axis=1)).max() < 1e-14
    assert len(faces) == len(ConvexHull(points).simplices) == 2 * len(points) - 4
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [0, 2]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
