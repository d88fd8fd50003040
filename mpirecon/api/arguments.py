"""What scripts hand over and are handed: communicators, names of settings, structured arrays."""

from __future__ import annotations

import os

import numpy as np

from mpirecon.errors import UserError, in_python
from mpirecon.io.inputs import Input, given
from mpirecon.parallel.comm import Communicator, SerialCommunicator
from mpirecon.parallel.console import Console


def as_communicator(comm) -> Communicator:
    """What was given as `comm`: None is this process alone; mpi4py's communicators are taken too."""
    if comm is None:
        return SerialCommunicator()
    if isinstance(comm, Communicator):
        return comm
    try:
        from mpi4py import MPI
    except ImportError:
        MPI = None
    if MPI is None or not isinstance(comm, MPI.Comm):
        raise UserError(f"comm: expected a communicator of mpi4py or mpirecon.world(), got {type(comm).__name__}")
    if comm == MPI.COMM_NULL:
        raise UserError("comm: MPI.COMM_NULL has no ranks, and a communicator that was freed is it, too; only ranks "
                        "that belong to a communicator may call this")
    if comm.Is_inter():
        raise UserError("comm: an intercommunicator joins two groups of ranks; give a communicator of one group, such "
                        "as comm.Merge() makes of both")
    from mpirecon.parallel.mpi import MpiCommunicator

    return MpiCommunicator(world=comm)


def is_path(given) -> bool:
    """Whether what was given names a file."""
    return isinstance(given, (str, os.PathLike))


def files_among(**named) -> list[Input]:
    """Those of what was given that are files, by what they are."""
    return given(**{what: value for what, value in named.items() if is_path(value)})


def check_names(what: str, names, known) -> None:
    """TypeError for names that are no settings, with the nearest one that is."""
    import difflib

    for name in names:
        if name not in known:
            said = in_python(f"--{name.replace('_', '-')}")  # an option of the command by another name
            if said.partition("=")[0] not in (name, f"--{name.replace('_', '-')}"):
                raise TypeError(f"{what} has no setting {name!r}; in Python it is {said}")
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"{what} has no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else
                            f"; it has {', '.join(known)}"))


def structured(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Columns of one length as a structured array."""
    length = len(next(iter(columns.values())))
    table = np.empty(length, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def console_of(comm: Communicator | None, verbose: bool | int) -> Console:
    """What a command would print to, silent but for `verbose`; 2 is the command's --verbose."""
    return Console(comm, quiet=not verbose, verbose=verbose > 1)
