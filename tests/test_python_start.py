"""What `import mpirecon` and the start of a run load, and what they do without."""

import subprocess
import sys

import pytest

import mpirecon as mr

pytestmark = pytest.mark.in_python


def test_importing_loads_no_library_and_starts_nothing():
    code = (
        "import sys, logging, signal; before = set(sys.modules), signal.getsignal(signal.SIGTERM), "
        "logging.root.handlers[:]\n"
        "import mpirecon\n"
        "heavy = {'numpy', 'scipy', 'numba', 'h5py', 'mpi4py', 'matplotlib', 'click', 'cupy', 'pandas'}\n"
        "assert not heavy & (set(sys.modules) - before[0]), heavy & set(sys.modules)\n"
        "assert (signal.getsignal(signal.SIGTERM), logging.root.handlers) == before[1:]\n"
        "for name in mpirecon.__all__: getattr(mpirecon, name)\n"
        "assert 'mpi4py' not in sys.modules and 'cupy' not in sys.modules\n"
        "assert set(mpirecon.__all__) <= set(dir(mpirecon))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


#: a program that tells what it has loaded when it first reads images, and in the end
LOADED = """
import os, sys

def first(*arguments, read=os.preadv):
    os.preadv = read
    print("loaded", *sys.modules)
    return read(*arguments)

os.preadv = first
path, out = sys.argv[1:]
{}
print("loaded", *sys.modules)
"""


@pytest.mark.parametrize("start", [
    "import mpirecon; mpirecon.Reconstruction(path).result().save(out)",
    "from mpirecon.cli import run; run(['reconstruct', path, '-o', out, '-q'])",
], ids=["Python", "command"])  # fmt: skip
def test_the_first_image_does_not_wait_for_libraries(tmp_path, start):
    """They take as long to load as all else that is done before it; Numba is for compiling alone."""
    particles = mr.simulate(mr.phantom(24, 5.0), 240, snr=0.3, error_rate=0.3, junk_rate=0.05, seed=4)
    mr.reconstruct(particles)  # kernels are compiled
    code = [sys.executable, "-c", LOADED.format(start), particles.path, tmp_path / "out"]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    early, all_in_all = (set(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("loaded "))
    late = {"scipy.fft._pocketfft.pypocketfft", "scipy.special", "scipy.spatial"}
    assert "h5py" in early and not late & early, late & early
    assert late <= all_in_all and (tmp_path / "out" / "volume.mrc").exists()
    unused = {"numba", "pandas", "matplotlib", "mpirecon.backend.gpu", "mpirecon.search.acceptance",
              "mpirecon.solvers.rescue", "scipy.fft", "scipy.ndimage"}
    assert not unused & all_in_all, unused & all_in_all
