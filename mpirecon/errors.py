"""Errors that a user can mend. The command line prints their text, never a traceback."""


#: how CUDA's libraries say that a GPU's memory, or what the system pins for it, does not suffice
OUT_OF_GPU_MEMORY = ("CUFFT_ALLOC_FAILED", "cudaErrorMemoryAllocation")


class UserError(Exception):
    """Something in the user's input, files or environment is wrong.

    The message says what was given, what was expected, in which file and row, and what to do.
    Every other exception is a defect of mpirecon and keeps its traceback.
    """
