"""``mpirecon relion``: a reconstruction as an External job of RELION's project."""

from __future__ import annotations

import importlib.resources
import json
import shlex
import signal
from contextlib import suppress
from pathlib import Path

import click

from mpirecon.cli import reconstruct
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import COUNT, EXISTING_FILE, ANY_PATH
from mpirecon.errors import UserError
from mpirecon.io.file_names import as_argument

#: options of reconstruct that the job gives itself, or has no use for
_NOT_PASSED = {"particles", "output", "overwrite", "resume", "threads", "dry_run", "checkpoint_signal"}

#: what RELION's form may say of an option that takes no value
_YES, _NO = {"yes", "true", "1"}, {"no", "false", "0"}


class JobCommand(DocumentedCommand):
    """A command whose options are written as RELION's form gives them,
    and whose every end leaves a marker in the job's folder."""

    def make_context(self, info_name, args, parent=None, **extra):
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException:
            folder = _folder_of(words)
            if folder is not None:
                from mpirecon.batch.external_job import FAILURE, ExternalJob

                with suppress(OSError, UserError):  # it is no folder: that is what the error is about
                    job = ExternalJob(folder)
                    job.begin()
                    job.end(FAILURE)
            raise

    def parse_args(self, ctx, args):
        words = _as_typed(args, {spelling: option for option in self.params for spelling in option.opts})
        rest = super().parse_args(ctx, list(words))
        given, _, _ = self.make_parser(ctx).parse_args(words)
        ctx.meta["words"] = [word for option in PASSED if option.name in given
                             for word in _words(option, given[option.name])]
        return rest


def _folder_of(args: list[str]) -> str | None:
    """The job's folder on a command line that may not be understood otherwise."""
    for i, word in enumerate(args):
        if word.startswith("--o="):
            return word[4:]
        if word == "--o" and i + 1 < len(args):
            return args[i + 1]
    return None


def _as_typed(args: list[str], known: dict[str, click.Parameter]) -> list[str]:
    """Words of RELION's form as those of a command line:
    ``--max_resolution``, and Yes or No after an option without a value."""
    words: list[str] = []
    for word in args:
        flag = words[-1] if words and words[-1] in known and getattr(known[words[-1]], "is_flag", False) else None
        if flag is not None and word.lower() in _YES | _NO:
            if word.lower() in _NO:
                words.pop()
            continue
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = "--" + name.lstrip("-")
            name = name if name in known else name.replace("_", "-")
            word = f"{name}{equals}{value}"
        words.append(word)
    return words


def _words(option: click.Option, value) -> list[str]:
    """An option as it was given, as words for reconstruct."""
    if option.is_flag:
        return [option.opts[0]]
    return [word for one in (value if option.multiple else [value]) for word in (option.opts[0], str(one))]


def _template(ctx, param, value):
    if value and not ctx.resilient_parsing:
        click.echo(importlib.resources.files("mpirecon.jobs").joinpath("relion_job.star").read_text(encoding="utf-8"),
                   nl=False)
        ctx.exit()


PASSED = [p for p in reconstruct.command.params if isinstance(p, click.Option) and p.name not in _NOT_PASSED]


@click.pass_context
def _run(ctx, o, in_parts, in_mask, in_3dref, in_movies, in_mics, in_coords, ranks, j, launcher, overwrite, mask,
         reference, grace, **_):
    from mpirecon.batch.external_job import ABORTED, FAILURE, SUCCESS, ExternalJob
    from mpirecon.batch.supervise import Supervisor
    from mpirecon.parallel.launcher import find_launcher
    from mpirecon.parallel.stopping import RESUME_EXIT_CODE

    job, code = ExternalJob(o), 1
    job.begin()
    try:
        with Supervisor(job.folder, FAILURE) as supervisor:
            found = find_launcher()
            if found is not None and (found.size or 1) > 1:
                raise UserError(f"relion was started on {found.size} ranks by {found.name}: it starts its ranks "
                                "itself, give their number with --ranks and leave the launcher out")
            if in_mask and mask:
                raise UserError(f"--in_mask {in_mask} and --mask {mask} both say what the mask is; leave one out")
            if in_3dref and reference:
                raise UserError(f"--in_3dref {in_3dref} and --reference {reference} both say what the reference is; "
                                f"leave one out")
            for name, given in (("in_movies", in_movies), ("in_mics", in_mics), ("in_coords", in_coords)):
                if given:
                    click.echo(f"--{name} {given} is not used: particles with poses need no others")
            words = [*ctx.meta["words"], *(["--mask", as_argument(in_mask)] if in_mask else []), *_reference(in_3dref)]
            threads = max(1, j // ranks)
            code = _reconstruct(job, in_parts, in_mask or mask, words, supervisor, ranks, threads, launcher, overwrite,
                                grace)
            if code == 0:
                _export(job)
            job.end({0: SUCCESS, RESUME_EXIT_CODE: ABORTED}.get(code, FAILURE))
    except BaseException:
        with suppress(OSError):
            job.end(FAILURE)
        raise
    return code


def _reference(given: str | None) -> list[str]:
    """Words for reconstruct of the map that RELION's form names: the result is compared with it."""
    if not given:
        return []
    if not Path(given).is_file():
        click.echo(f"--in_3dref {given} is not used: there is no such file", err=True)
        return []
    return ["--reference", as_argument(given)]


def _reconstruct(job, particles, mask, words, supervisor, ranks, threads, launcher, overwrite, grace) -> int:
    """Run ``mpirecon reconstruct`` as far as is left to do;
    its exit code, that of a stop also where it was not begun."""
    from mpirecon.batch.external_job import KEPT
    from mpirecon.batch.supervise import launched
    from mpirecon.io.inputs import given, refuse_inputs
    from mpirecon.io.stack_contrast import refuse_mixed_signs
    from mpirecon.io.unfinished import state_of
    from mpirecon.parallel.stopping import RESUME_EXIT_CODE

    reference = words[words.index("--reference") + 1] if "--reference" in words else None
    refuse_inputs(job.targets(), given(particle_table=particles, mask=mask if mask != "auto" else None,
                                       reference=reference))
    asked = ["reconstruct", as_argument(particles), "-o", as_argument(job.run), *words]
    if not {"--select", "--first"} & set(words):  # which may leave images of one contrast
        refuse_mixed_signs(particles, job.folder / KEPT, "Run mpirecon reconstruct and mpirecon export --star "
                           "FILE.star --stack FILE.mrcs, and give this job that STAR file")
    how = _how(job, asked, overwrite, [path for path in (particles, mask, reference) if path not in (None, "auto")])
    if how is None:
        click.echo(f"the run in {job.run} is finished, and was asked for the same: its results are exported again")
        return 0
    if job.abort_asked or supervisor.received:
        click.echo("Stopped before the reconstruction began: the job was asked to abort.", err=True)
        return RESUME_EXIT_CODE
    command = launched([*asked, "--threads", str(threads), *how], ranks, launcher)
    click.echo(shlex.join(command))
    code = supervisor.run(command, lambda: job.abort_asked, grace)
    if code < 0:
        raise UserError(f"the reconstruction was killed ({signal.Signals(-code).name}; was memory short?); continuing "
                        "the job continues from its last checkpoint")
    if code == 0 and (left := state_of(job.run)) is not None:
        raise UserError(f"{Path(command[0]).name} ended as if all had been done, as mpirun does when it has lost a "
                        f"host; {left}")
    return code


def _how(job, asked: list[str], overwrite: bool, inputs: list[Path]) -> list[str] | None:
    """How to begin or continue: options of reconstruct; None where there is nothing left to do.

    Raises UserError where a finished run would be replaced that no job has made.
    """
    from mpirecon.io.run_kinds import RECONSTRUCTION
    from mpirecon.io.unfinished import state_of

    summary = job.run / RECONSTRUCTION.marker
    if overwrite:
        return ["--overwrite"]
    if not summary.exists() or state_of(job.run) is not None:
        return ["--resume"]
    try:
        before = shlex.split(json.loads(summary.read_text(encoding="utf-8"))["command"])
        before = before[before.index("reconstruct") :]
        before = before[: before.index("--threads")]
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    newer = any(Path(path).stat().st_mtime_ns > summary.stat().st_mtime_ns for path in inputs)
    if before == asked and not newer:
        return None
    if not job.made_run:
        raise UserError(f"{job.run} holds a finished run that no job of RELION has made; give the folder of a new job, "
                        "External/jobNNN/, or pass --overwrite to replace the run")
    return ["--overwrite"]


def _export(job) -> None:
    from mpirecon.batch.external_job import DISCARDED, KEPT
    from mpirecon.io.export import ExportOptions, export_run
    from mpirecon.io.inputs import refuse_inputs
    from mpirecon.io.run_inputs import run_origins

    refuse_inputs(job.targets(), run_origins(job.run))
    report = export_run(
        job.run, ExportOptions(star=job.folder / KEPT, discarded=job.folder / DISCARDED, overwrite=True)
    )
    for note in report.notes:
        click.echo(f"  {note}")
    for text in report.warnings:
        click.echo(f"Warning: {text}", err=True)
    job.take_results()
    empty = any(path.name == DISCARDED and what.startswith("0 of") for path, what in report.files)
    for path in job.write_nodes([KEPT] if empty else [KEPT, DISCARDED]):
        click.echo(f"{path}: for RELION's list")
    click.echo(f"{job.folder / 'report.html'}: the page about the run; all of it is in {job.run}")


_HELP = """Run a reconstruction as an External job of a RELION project (3.1 and later), from the project's folder.

RELION's form calls it with --o, the inputs, what its parameters say, and --j; any option of reconstruct may be such a parameter (also
with _ for -, and Yes or No where it takes no value). The job's folder gets particles.star (kept), discarded.star, the half maps
run_half1_class001_unfil.mrc and run_half2_class001_unfil.mrc, run_class001.mrc, mask.mrc and report.html; the run itself is in its folder
run/. RELION's request to abort saves the iteration under way; continuing the job resumes from there.

\b
Examples:
  mpirecon relion --o External/job012/ --in_parts Refine3D/job010/run_data.star --loss posterior --ranks 4 --j 16
  mpirecon relion --job-star > mpirecon_job.star
  relion_pipeliner --addJobFromStar mpirecon_job.star
"""

command = JobCommand(
    "relion",
    params=[
        click.Option(["--o"], type=ANY_PATH, required=True, metavar="FOLDER",
                     help="Folder of the job, External/jobNNN/."),
        click.Option(["--in_parts"], type=EXISTING_FILE, required=True, metavar="FILE",
                     help="STAR file of the particles."),
        click.Option(["--in_mask"], type=EXISTING_FILE, metavar="FILE",
                     help="Soft mask (MRC), 0 … 1.  [default: a sphere]"),
        click.Option(["--in_3dref"], metavar="FILE", help="Map that the particles were refined against: the result is "
                     "compared with it (--reference). No map is made from it."),
        *(click.Option([f"--{name}"], metavar="FILE", help="Accepted and not used.")
          for name in ("in_movies", "in_mics", "in_coords")),
        click.Option(["--ranks"], type=COUNT, default=1, show_default=True, metavar="N",
                     help="MPI ranks, which the job starts itself."),
        click.Option(["--j"], type=COUNT, default=1, show_default=True, metavar="N",
                     help="Cores of the job, divided among the ranks as threads."),
        click.Option(["--launcher"], type=click.Choice(["mpirun", "mpiexec", "srun"]),
                     help="What starts the ranks.  [default: the first of them that is there]"),
        click.Option(["--overwrite"], is_flag=True, help="Start a new run instead of continuing the run in the job's "
                     "folder."),
        click.Option(["--pipeline_control"], metavar="FOLDER", help="Accepted, as RELION adds it; the folder is that "
                     "of --o."),
        click.Option(["--job-star"], is_flag=True, is_eager=True, expose_value=False, callback=_template,
                     help="Print a job.star of this job, for relion_pipeliner --addJobFromStar or RELION's form, and "
                     "end."),
        *PASSED,
    ],
    callback=_run,
    help=_HELP,
    short_help="Run as an External job of a RELION project.",
)  # fmt: skip
