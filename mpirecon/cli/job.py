"""``mpirecon job``: a batch script for a reconstruction."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path

import click

from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, COUNT, EXISTING_FILE, refuse_existing
from mpirecon.cli.reading import glance, reading_of
from mpirecon.errors import UserError
from mpirecon.io.file_names import as_argument


@click.command("job", cls=DocumentedCommand)
@click.argument("scheduler", type=click.Choice(["slurm", "pbs", "lsf", "sge"]))
@click.argument("particles", type=EXISTING_FILE)
@click.argument("reconstruct_options", metavar="[-- RECONSTRUCT OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="FOLDER",
              help="The folder that reconstruct will write.")
@click.option("--nodes", type=COUNT, default=1, show_default=True, help="Nodes.")
@click.option("--ranks", type=COUNT, help="MPI ranks in all.  [default: one a GPU, or what nodes hold]")
@click.option("--threads", type=COUNT, help="Cores of a rank.  [default: 1]")
@click.option("--gpus", type=COUNT, help="GPUs in all, one a rank.  [default: none]")
@click.option("--memory", metavar="64G", help="Memory of each node.  [default: the forecast and a fifth]")
@click.option("--time", metavar="H:M:S", help="Wall time, also 90m, 2h, 1-12:00:00.  [default: twice the forecast]")
@click.option(
    "--warning",
    type=COUNT,
    metavar="SECONDS",
    help="How long before the time limit the job is signalled to save its state.  [default: 300, at most a third]",
)
@click.option("--name", metavar="NAME", help="Name of the job.  [default: from the output folder]")
@click.option("--account", metavar="NAME", help="Account or project that pays.")
@click.option("--partition", "--queue", metavar="NAME", help="Partition or queue.")
@click.option("--email", metavar="ADDRESS", help="Where to write when the job ends.")
@click.option("--modules", multiple=True, metavar="MODULE", help="Environment module to load; may be repeated.")
@click.option("--setup", multiple=True, metavar="LINE", help="Shell line to run before; may be repeated.")
@click.option("--container", metavar="IMAGE", help="Run mpirecon in this image (Apptainer).")
@click.option(
    "--launcher",
    type=click.Choice(["srun", "mpirun", "mpiexec"]),
    help="What starts the ranks.  [default: srun under Slurm, else mpirun]",
)
@click.option("--launcher-options", metavar="OPTIONS", help="More options for the launcher, in quotes.")
@click.option("--mpi", metavar="TYPE", help="srun's --mpi.  [default: pmix with an Open MPI from PyPI]")
@click.option(
    "--site",
    type=EXISTING_FILE,
    metavar="FILE",
    help="The site's defaults.  [default: $MPIRECON_SITE, ~/.config/mpirecon/site.toml]",
)
def command(scheduler, particles, output, reconstruct_options, site, **given):
    """Print a batch script that reconstructs PARTICLES, for SCHEDULER.

    Only the script goes to stdout; the forecast of memory and time goes to stderr. A request that does not fit is
    refused, and what fits is said. Options for reconstruct follow after --.

    \b
    Example:
      mpirecon job slurm particles.h5 -o run1 --nodes 2 --time 2h -- --loss sorted --keep 0.7 > run1.sh
      sbatch run1.sh
    """
    from mpirecon.batch.request import Wish, plan
    from mpirecon.batch.script import Job, write_script
    from mpirecon.batch.site import read_site, site_file

    task, on_gpus = _task(particles, output, reconstruct_options)
    given = {name: value for name, value in given.items() if value not in (None, ())}
    chosen = {**read_site(site or site_file(), gpu="gpus" in given), **given}
    resources = plan(task, Wish(**_of(Wish, chosen)))
    names = {name: tuple(value) if isinstance(value, list) else value for name, value in _of(Job, chosen).items()}
    if "template" in names:
        names["template"] = Path(os.path.expanduser(names["template"]))
    job = Job(scheduler, particles, output, tuple(reconstruct_options), **names)
    script = write_script(job, resources, f"mpirecon {shlex.join(sys.argv[1:])}")
    click.echo(resources.forecast(), err=True)
    for warning in _warnings(resources, on_gpus):
        click.echo(f"Warning: {warning}", err=True)
    # bytes: a path need not be valid text
    click.echo(script.encode("utf-8", "surrogateescape"), nl=False)


def _of(kind, chosen: dict) -> dict:
    return {field.name: chosen[field.name] for field in dataclasses.fields(kind) if field.name in chosen}


def _task(particles, output, options):
    """(what reconstruct will do, whether on GPUs), from the particles and from its own reading of its options."""
    from mpirecon.api.options import refuse_unmade_mask
    from mpirecon.batch.forecast import Task
    from mpirecon.cli.reconstruct import command as reconstruct, configure
    from mpirecon.io.inputs import given
    from mpirecon.io.run_folder import RunFolder
    from mpirecon.io.run_kinds import RECONSTRUCTION
    from mpirecon.parallel.threads import MOST_KEPT
    from mpirecon.solvers.config import Config
    from mpirecon.solvers.first_checks import check_given

    arguments = [as_argument(particles), "--output", as_argument(output), *options]
    try:
        above = click.get_current_context(silent=True)
        asked = reconstruct.make_context("reconstruct", arguments, parent=above and above.find_root()).params
    except click.exceptions.Exit:
        raise UserError("after -- only options that change the reconstruction are of use") from None
    if asked["output"] != output or asked["particles"] != particles:
        raise UserError("give particles and output folder before --, the other options of reconstruct after it")
    if asked["threads"] is not None:
        raise UserError(f"--threads {asked['threads']} after --: the job must ask for the cores of its ranks; give "
                        "--threads before --")
    if asked["dry_run"]:
        raise UserError("--dry-run after --: such a job would compute nothing; leave it out, the forecast is printed "
                        "with the script")
    if asked["checkpoint_signal"] != "USR1":
        raise UserError(f"--checkpoint-signal {asked['checkpoint_signal']} after --: the script passes USR1 on, by "
                        "which the run saves its state before the job's time ends; leave it out")
    reading = reading_of(asked)
    settings = {"score_band", *(field.name for field in dataclasses.fields(Config))}
    config = configure(**{name: value for name, value in asked.items() if name in settings})
    refuse_unmade_mask(config, asked["postprocess"])
    reads = given(particle_file=particles, mask=asked["mask"] if asked["mask"] != "auto" else None)
    folder = RunFolder(output, RECONSTRUCTION, reads, overwrite=asked["overwrite"])
    folder.refuse_inputs()
    if (output / "checkpoint.h5").exists():
        if asked["overwrite"]:
            raise UserError(
                f"{output} holds the checkpoint of an unfinished run: omit --overwrite to resume it, or remove the "
                f"folder to start a new run"
            )
    elif not folder.unused:
        refuse_existing(output, asked["overwrite"])
        folder.refuse_foreign()
    with glance(particles, reading) as file:
        check_given(file, config, asked["reference"])
        return Task.of(file, config, MOST_KEPT), asked["backend"] == "cuda"


def _warnings(resources, on_gpus: bool):
    from mpirecon.batch.calibration import calibration
    from mpirecon.batch.forecast import GPUS_UNKNOWN

    if calibration().damage:
        yield calibration().damage
    if resources.gpus or on_gpus:
        yield GPUS_UNKNOWN
    if resources.expected_seconds > resources.seconds:
        yield "the forecast is longer than --time: the job may be stopped before it ends"
