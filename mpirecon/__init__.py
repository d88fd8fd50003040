"""mpirecon: robust cryo-EM 3-D reconstruction on MPI and GPUs."""

__version__ = "0.1.0"
