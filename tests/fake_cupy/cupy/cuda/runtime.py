from __future__ import annotations


class CUDARuntimeError(RuntimeError):
    def __init__(self, status) -> None:
        super().__init__(str(status))


_current = 0


def getDeviceCount() -> int:
    from cupy import SETTINGS

    if SETTINGS["error"]:
        raise CUDARuntimeError(SETTINGS["error"])
    return SETTINGS["devices"]


def setDevice(device) -> None:
    global _current
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
    _current = device


def getDevice() -> int:
    return _current


def getDeviceProperties(device) -> dict:
    from cupy import SETTINGS

    return {"name": b"Fake GPU", "uuid": bytes([device]) * 16, "major": 9, "minor": 0,
            "totalGlobalMem": SETTINGS["memory"],
            "multiProcessorCount": 4}  # fmt: skip


def deviceGetPCIBusId(device) -> str:
    return f"0000:{device:02x}:00.0"


def memGetInfo() -> tuple[int, int]:
    from cupy import SETTINGS, MEMORY

    return SETTINGS["memory"] - MEMORY.used, SETTINGS["memory"]


def driverGetVersion() -> int:
    from cupy import SETTINGS

    return SETTINGS["driver"]


def runtimeGetVersion() -> int:
    return 13000
