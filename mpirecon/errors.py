"""Errors that a user can mend. The command line prints their text, never a traceback."""


class UserError(Exception):
    """Something in the user's input, files or environment is wrong.

    The message says what was given, what was expected, in which file and row, and what to do.
    Every other exception is a defect of mpirecon and keeps its traceback.
    """
