"""Arrays of either side: NumPy's on the host, CuPy's on a GPU. CuPy is imported only where one is met or asked for."""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError


def working_cupy():
    """The module cupy; UserError where there is none, no driver or no device."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise UserError(f"arrays on a GPU need CuPy and a device that works: {error}") from error
    return cupy


def on_host(array) -> np.ndarray:
    """A NumPy array of anything that is one, lies on a GPU (CuPy, or any DLPack tensor there),
    or is a list of numbers."""
    if hasattr(array, "get") and hasattr(array, "__cuda_array_interface__"):
        return array.get()
    if hasattr(array, "__dlpack_device__") and not isinstance(array, np.ndarray):
        if hasattr(array, "requires_grad") and array.requires_grad:
            array = array.detach()  # autograd tensors refuse to be exported
        if int(array.__dlpack_device__()[0]) == 2:
            return working_cupy().from_dlpack(array).get()
        return np.from_dlpack(array)
    return np.asarray(array)


def numbers_of(given, what: str, *, flags: bool = False, verb: str = "is") -> np.ndarray:
    """A copy on the host as float64; UserError, which begins with `what`, where it is no array of real numbers.

    flags : True and False are taken for 1 and 0 · verb : that goes with `what`, is or are
    """
    try:
        array = given if isinstance(given, np.ma.MaskedArray) else on_host(given)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if isinstance(array, np.ma.MaskedArray):
        raise UserError(f"{what} {verb} a masked array, and masked values are none; give array.filled(…)")
    if array.dtype.kind not in ("biuf" if flags else "iuf") and array.size:
        raise UserError(f"{what} must be an array of numbers, got {type(given).__name__}"
                        f"{'' if array.dtype == object else f' of {array.dtype}'}")
    return np.array(array, dtype=np.float64)
