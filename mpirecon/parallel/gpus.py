"""Which GPUs there are and whether they work, asked through CuPy, which is imported only where they are asked for."""

from __future__ import annotations

import errno
import functools
import importlib.util
import logging
import os
import tempfile

import numpy as np

from mpirecon.errors import UserError

#: bytes that must be free for CuPy to keep compiled kernels
_ROOM = 2**20

_log = logging.getLogger(__name__)

_INSTALL = (
    "install it for the CUDA version that nvidia-smi shows: pip install 'mpirecon[cuda12]' or 'mpirecon[cuda13]'; or "
    "use --backend cpu"
)


def load_cupy():
    """The module cupy, with at least one device that works.

    Raises
    ------
    UserError
        when CuPy is missing or broken, the driver is too old for it, or there is no device; saying what to do.
    """
    if importlib.util.find_spec("cupy") is None:
        raise UserError(f"--backend cuda needs CuPy, which is not installed; {_INSTALL}")
    keep_kernels()
    try:
        import cupy
    except Exception as error:  # whatever a half-installed CuPy may raise is what the user should read
        raise UserError(f"--backend cuda: CuPy cannot be imported ({_first_line(error)}); {_INSTALL}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise UserError(f"--backend cuda: {_why_no_device(cupy, error)}") from error
    if count == 0:
        raise UserError("--backend cuda: no CUDA device is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, ask the "
                        "batch system for a GPU, or use --backend cpu")
    return cupy


@functools.lru_cache(maxsize=None)
def keep_kernels() -> None:
    """Have CuPy keep what it compiles in memory where its folder of compiled kernels cannot be written:
    it would fail."""
    folder = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
    try:
        if not os.path.isabs(folder):
            raise FileNotFoundError(errno.ENOENT, "there is no home folder")
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(_ROOM))
    except OSError as error:
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
        _log.warning("CuPy's compiled kernels cannot be stored in %s (%s); they are compiled at each start. Set "
                     "CUPY_CACHE_DIR to a folder that can be written", folder, error.strerror)


@functools.lru_cache(maxsize=None)
def try_out(cupy, index: int) -> None:
    """Let device `index` transform a few numbers: CuPy alone knows of devices that CUDA's libraries cannot use.

    Raises UserError when it does not, saying what to do.
    """
    try:
        with cupy.cuda.Device(index):
            found = cupy.fft.rfft(cupy.asarray(np.arange(8, dtype=np.float32))).get()
    except Exception as error:
        raise UserError(f"--backend cuda: device {index} does not work with this CuPy ({type(error).__name__}: "
                        f"{_first_line(error)}); CuPy also needs CUDA's libraries, or a CuPy for this device: "
                        f"{_INSTALL}") from error
    if abs(found[0] - 28) > 1e-3:
        raise UserError(f"--backend cuda: device {index} gets the sum of 0 … 7 as {found[0].real:g}; use --backend cpu")


def _why_no_device(cupy, error: Exception) -> str:
    """A sentence with the remedy for what the CUDA runtime said when asked for devices."""
    text = _first_line(error)
    if "InsufficientDriver" in text:
        driver, runtime = (_version(cupy, ask) for ask in ("driverGetVersion", "runtimeGetVersion"))
        if driver in (None, "0.0"):
            return (f"no CUDA driver works here ({text}); run on a host with an NVIDIA GPU and driver (check "
                    "nvidia-smi), or use --backend cpu")
        return (f"the driver knows CUDA {driver}, CuPy {cupy.__version__} is built for CUDA {runtime}; update the "
                "driver, or install the CuPy of an older CUDA, e.g. pip install 'mpirecon[cuda12]', or use --backend "
                "cpu")
    if "NoDevice" in text:
        return f"no CUDA device is visible ({text}); check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --backend cpu"
    return f"CUDA does not work here: {text}; check nvidia-smi, or use --backend cpu"


def _version(cupy, ask: str) -> str | None:
    try:
        number = getattr(cupy.cuda.runtime, ask)()
    except Exception:
        return None
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def device_facts(cupy, index: int) -> dict:
    """``{"name", "uuid", "compute_capability", "memory", "driver", "runtime"}`` of a device."""
    found = cupy.cuda.runtime.getDeviceProperties(index)
    raw = bytes(found.get("uuid", b""))[:16]
    digits = raw.hex()
    uuid = "GPU-" + "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    if len(raw) < 16:  # CuPy ends it at a zero byte
        uuid = f"GPU at {cupy.cuda.runtime.deviceGetPCIBusId(index)}"
    name = found["name"]
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name), "uuid": uuid,
        "compute_capability": f"{found['major']}.{found['minor']}", "memory": int(found["totalGlobalMem"]),
        "driver": _version(cupy, "driverGetVersion"), "runtime": _version(cupy, "runtimeGetVersion"),
    }  # fmt: skip
