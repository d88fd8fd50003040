"""Volume, Stack and Img: arrays that know their axes, dtype and pixel size.

Axes are V[z, y, x], I[y, x] and stack[m, y, x]; the origin is voxel n // 2; pixel sizes are in Å. They wrap NumPy or
CuPy arrays without copying and speak the array and DLPack protocols, so that ``numpy.asarray(volume)``,
``torch.from_dlpack(volume)`` and ``Volume.from_dlpack(tensor, 1.2)`` work without mpirecon importing torch or cupy.
"""

from __future__ import annotations

import math

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kinds import shown
from mpirecon.model.devices import working_cupy

_FLOATS = ("float16", "float32", "float64")


class _Pixels:
    """What Volume, Stack and Img share: one checked array and its pixel size."""

    _axes: tuple[str, ...] = ()
    _equal: tuple[int, ...] = ()  # axes that must have the same length

    def __init__(self, array, pixel_size: float, *, source: str = "") -> None:
        self.array = array
        try:
            self.pixel_size = float(pixel_size)
        except (TypeError, ValueError):
            raise UserError(f"{type(self).__name__}: the pixel size must be a positive number of Å, got "
                            f"{shown(pixel_size)}") from None
        self._check(source)

    def _check(self, source: str) -> None:
        name = type(self).__name__ + (f" from {source}" if source else "")
        array = self.array
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise UserError(f"{name}: expected an array, got {type(array).__name__}")
        if isinstance(array, np.ma.MaskedArray):
            raise UserError(f"{name}: this is a masked array, and masked values are none; give array.filled(…)")
        wanted = ", ".join(self._axes)
        if len(array.shape) != len(self._axes):
            raise UserError(f"{name}: expected axes ({wanted}), got shape {tuple(array.shape)}")
        if len({array.shape[a] for a in self._equal}) > 1:
            raise UserError(
                f"{name}: axes {', '.join(self._axes[a] for a in self._equal)} must have the same length, got shape "
                f"{tuple(array.shape)}"
            )
        if any(array.shape[a] < 2 for a in self._equal):
            raise UserError(f"{name}: at least 2 pixels a side are needed, got shape {tuple(array.shape)}")
        if str(array.dtype) not in _FLOATS:
            raise UserError(f"{name}: expected dtype {' or '.join(_FLOATS)}, got {array.dtype}; convert it with "
                            "array.astype('float32')")
        if not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise UserError(f"{name}: the pixel size must be a positive number of Å, got {self.pixel_size}")

    @property
    def box(self) -> int:
        """Side of the image or volume, pixels."""
        return self.array.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self):
        return self.array.dtype

    @property
    def device(self) -> str:
        """``"cpu"`` for a NumPy array, ``"cuda:N"`` for one that lives on GPU N."""
        kind, index = self.__dlpack_device__()
        return "cpu" if kind in (1, 3) else f"cuda:{index}"

    def to_cupy(self):
        """The data as a CuPy array: the same memory on its GPU, a copy on the current one from the host.

        Raises UserError where there is no CuPy or no device.
        """
        return working_cupy().asarray(self.array)

    def to_numpy(self) -> np.ndarray:
        """The data as a NumPy array: the same memory on the host, a copy from a GPU."""
        return self.array.get() if hasattr(self.array, "get") else np.asarray(self.array)

    def __array__(self, dtype=None, copy=None):
        array = self.to_numpy()
        return np.array(array, dtype=dtype, copy=copy) if copy else np.asarray(array, dtype=dtype)

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self.array.__dlpack_device__()
        return int(kind), int(index)

    @classmethod
    def from_dlpack(cls, tensor, pixel_size: float):
        """Wrap any DLPack tensor (PyTorch, CuPy, JAX …) without copying where its device allows."""
        kind, _ = tensor.__dlpack_device__()
        if int(kind) == 2:
            return cls(working_cupy().from_dlpack(tensor), pixel_size)  # only a tensor on a GPU needs it
        if hasattr(tensor, "requires_grad") and tensor.requires_grad:
            tensor = tensor.detach()  # autograd tensors refuse to be exported
        return cls(np.from_dlpack(tensor), pixel_size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape}, {self.dtype}, {self.pixel_size:g} Å/px, {self.device})"


class Volume(_Pixels):
    """A density map V[z, y, x], cubic, origin at voxel n // 2.

    Parameters
    ----------
    array : (n, n, n) float16, float32 or float64
    pixel_size : float, Å

    Raises
    ------
    UserError
        when shape, dtype or pixel size are not these.
    """

    _axes = ("z", "y", "x")
    _equal = (0, 1, 2)


class Img(_Pixels):
    """One particle image I[y, x], square, origin at pixel n // 2. Arguments as for Volume."""

    _axes = ("y", "x")
    _equal = (0, 1)


class Stack(_Pixels):
    """Particle images [m, y, x], square, origin at pixel n // 2. Arguments as for Volume."""

    _axes = ("particle", "y", "x")
    _equal = (1, 2)

    def __len__(self) -> int:
        return self.array.shape[0]

    def __getitem__(self, i: int) -> Img:
        return Img(self.array[i], self.pixel_size)
