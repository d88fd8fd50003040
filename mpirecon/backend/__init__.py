"""Where arrays live and which kernel runs. Solvers are given a backend and do not know which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpirecon.errors import UserError

if TYPE_CHECKING:  # its kernels are slow to load, and the names below are asked for by every command
    from mpirecon.backend.protocol import Backend

BACKENDS = ("auto", "cpu", "cuda")
SPACES = ("fourier", "real")


def get_backend(
    name: str, box: int, pixel_size: float, *, space: str = "fourier", interpolation: dict | None = None,
    on_cpu: dict | None = None,
    **options,
) -> Backend:
    """The backend of that name for one box; ``auto`` is the CPU's (parallel.placement decides where GPUs are used).

    space : "fourier" for central slices, "real" for line integrals
    interpolation : padding and taps of central slices
    on_cpu : options that the CPU's alone takes

    Raises
    ------
    UserError
        for a name that is unknown or a backend that cannot run here.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if space not in SPACES:
        raise UserError(f"unknown space {space!r}; choose one of {', '.join(SPACES)}")
    if space == "real":
        if name == "cuda":
            from mpirecon.backend.real_space_cuda import RealSpaceCudaBackend as RealSpaceBackend
        else:
            from mpirecon.backend.real_space import RealSpaceCpuBackend as RealSpaceBackend

        return RealSpaceBackend(box, pixel_size, **options)
    if name == "cuda":
        from mpirecon.backend.cuda import CudaBackend

        return CudaBackend(box, pixel_size, **options, **(interpolation or {}))
    from mpirecon.backend.cpu import CpuBackend

    return CpuBackend(box, pixel_size, **options, **(interpolation or {}), **(on_cpu or {}))
