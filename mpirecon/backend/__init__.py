"""Where arrays live and which kernel runs. Solvers are given a backend and do not know which."""

from __future__ import annotations

from mpirecon.errors import UserError

BACKENDS = ("auto", "cpu", "cuda")


def get_backend(name: str, box: int, pixel_size: float, **options):
    """The backend of that name for one box; ``auto`` takes the best that works here.

    Raises
    ------
    UserError
        for a name that is unknown or a backend that cannot run here.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "cuda":
        raise UserError("--backend cuda: this version of mpirecon has no CUDA kernels yet; use --backend cpu")
    from mpirecon.backend.cpu import CpuBackend

    return CpuBackend(box, pixel_size, **options)
