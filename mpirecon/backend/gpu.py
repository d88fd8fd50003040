"""One GPU through CuPy: whether there is one, its memory, and kernels compiled for it when they are first needed."""

from __future__ import annotations

import errno
import functools
import importlib.util
import logging
import os
import tempfile

import numpy as np

from mpirecon.errors import OUT_OF_GPU_MEMORY, UserError
from mpirecon.kernels.cuda_source import Settings, cuda_source

#: blocks of kernels whose threads loop over all that there is to do: enough to fill any chip
_BLOCKS = 4096

#: bytes that must be free for CuPy to keep compiled kernels
_ROOM = 2**20

_log = logging.getLogger(__name__)

_INSTALL = (
    "install it for the CUDA version that nvidia-smi shows: pip install 'mpirecon[cuda12]' or 'mpirecon[cuda13]'; "
    "or use --backend cpu"
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
        raise UserError("--backend cuda: no CUDA device is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, ask the batch "
                        "system for a GPU, or use --backend cpu")
    return cupy


@functools.lru_cache(maxsize=None)
def keep_kernels() -> None:
    """Have CuPy keep what it compiles in memory where its folder of compiled kernels cannot be written: it would fail."""
    folder = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
    try:
        if not os.path.isabs(folder):
            raise FileNotFoundError(errno.ENOENT, "there is no home folder")
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(_ROOM))
    except OSError as error:
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
        _log.warning("CuPy's compiled kernels cannot be kept in %s (%s); they are compiled anew at each start. Set CUPY_CACHE_DIR "
                     "to a folder that can be written", folder, error.strerror)


@functools.lru_cache(maxsize=None)
def try_out(cupy, index: int) -> None:
    """Let device `index` transform a few numbers: CuPy alone knows of devices that CUDA's libraries cannot use.

    Raises UserError when it does not, saying what to do.
    """
    try:
        with cupy.cuda.Device(index):
            found = cupy.fft.rfft(cupy.asarray(np.arange(8, dtype=np.float32))).get()
    except Exception as error:
        raise UserError(f"--backend cuda: device {index} does not work with this CuPy ({type(error).__name__}: {_first_line(error)}); "
                        f"it needs CUDA's libraries beside CuPy, or a CuPy for this device: {_INSTALL}") from error
    if abs(found[0] - 28) > 1e-3:
        raise UserError(f"--backend cuda: device {index} gets the sum of 0 … 7 as {found[0].real:g}; use --backend cpu")


def _why_no_device(cupy, error: Exception) -> str:
    """A sentence with the remedy for what the CUDA runtime said when asked for devices."""
    text = _first_line(error)
    if "InsufficientDriver" in text:
        driver, runtime = (_version(cupy, ask) for ask in ("driverGetVersion", "runtimeGetVersion"))
        if driver in (None, "0.0"):
            return (f"no CUDA driver works here ({text}); run on a host with an NVIDIA GPU and driver (check nvidia-smi), "
                    "or use --backend cpu")
        return (f"the driver knows CUDA {driver}, CuPy {cupy.__version__} is built for CUDA {runtime}; update the driver, or "
                f"install the CuPy of an older CUDA, e.g. pip install 'mpirecon[cuda12]', or use --backend cpu")
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


@functools.lru_cache(maxsize=None)
def _module(cupy, index: int, settings: Settings):
    """The kernels compiled for device `index`, which is the current one. CuPy keeps the binary on disk as well."""
    return cupy.RawModule(code=cuda_source(settings), options=("-std=c++17",), backend="nvrtc")


def settings_for(taps: int, padding: float, bands: int) -> Settings:
    """Settings of the kernels; MPIRECON_CUDA_LANES and MPIRECON_CUDA_THREADS in the environment try others out.

    Raises UserError for values that no kernel has.
    """
    given = {name: os.environ.get(f"MPIRECON_CUDA_{name.upper()}") for name in ("lanes", "threads")}
    try:
        chosen = {name: int(value) for name, value in given.items() if value}
        return Settings(**{"taps": taps, "padding": padding, "bands": bands, "lanes": 4 if taps in (3, 4) else 2, **chosen})
    except ValueError as error:
        told = ", ".join(f"MPIRECON_CUDA_{name.upper()}={value}" for name, value in given.items() if value)
        raise UserError(f"{told}: {error}") from error


class Gpu:
    """One device, of which `sharing` ranks each use their part.

    Raises UserError as load_cupy, and for an index that does not exist.
    """

    def __init__(self, index: int = 0, sharing: int = 1, settings: Settings = Settings()) -> None:
        self.cupy = load_cupy()
        count = self.cupy.cuda.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise UserError(f"GPU {index} was asked for, {count} are visible")
        self.index, self.sharing, self.settings = index, sharing, settings
        self.use()

    def use(self) -> None:
        """Make it the device of this thread."""
        self.cupy.cuda.Device(self.index).use()

    def free_bytes(self) -> int:
        """Memory that this rank may still fill: its share of what is free, and what CuPy keeps for reuse."""
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        return int(free / self.sharing) + int(self.cupy.get_default_memory_pool().free_bytes())

    def to_device(self, array: np.ndarray, dtype=None):
        """A copy on the device, C-contiguous."""
        return self.cupy.asarray(np.ascontiguousarray(array, dtype))

    def launch(self, name: str, blocks: int | None, *arguments, threads: int | None = None, shared: int = 0) -> None:
        """Start a kernel on the current stream; without `blocks`, one whose threads loop over all there is to do."""
        if blocks == 0:
            return
        kernel = _module(self.cupy, self.index, self.settings).get_function(name)
        # CuPy takes no null pointer but an address of zero
        arguments = tuple(np.intp(0) if a is None else a for a in arguments)
        kernel((blocks or _BLOCKS,), (threads or self.settings.threads,), arguments, shared_mem=shared)

    def synchronize(self) -> None:
        """Wait until the current stream has done all that it was given."""
        self.cupy.cuda.get_current_stream().synchronize()

    def ran_out(self, error: Exception) -> bool:
        """Whether an error says that memory did not suffice: CuPy's pool's, cuFFT's, or what the system pins."""
        text = f"{type(error).__name__}: {error}"
        return isinstance(error, self.cupy.cuda.memory.OutOfMemoryError) or any(
            words in text for words in OUT_OF_GPU_MEMORY
        )
