"""``mpirecon reconstruct``: from a particle file to maps, FSC, rank logs and a summary."""

from __future__ import annotations

import click

from mpirecon import cli
from mpirecon.batch.units import parse_memory, parse_time
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH,
    Band,
    COUNT,
    EXISTING_FILE,
    FileOr,
    FRACTION,
    NON_NEGATIVE,
    Number,
    POSITIVE,
    Whole,
    backend_option,
    overwrite_option,
    pass_communicator,
    seed_option,
    transport_option,
    verbosity,
    verbosity_options,
)
from mpirecon.cli.reading import READING, glance, reading_of
from mpirecon.errors import UserError
from mpirecon.solvers.kinds import solver_names

#: those of robust.losses, which is not imported before it is needed
LOSSES = ["l2", "sorted", "l1", "huber", "cauchy", "geman-mcclure", "welsch", "tukey", "posterior"]


#: those of solvers.config, likewise
POSES = ["fixed", "rescue", "refine"]

#: those of solvers.normalise, likewise
NORMALISE = ["auto", "background", "off"]


class Every(click.ParamType):
    """``3`` → 3; a time such as ``30m`` stays as it is."""

    name = "N|time"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        if value.isdecimal() and int(value):
            return int(value)
        try:
            parse_time(value)
        except UserError:
            self.fail(f"{value!r}: expected iterations, e.g. 2, or a time, e.g. 30m", param, ctx)
        return value


class SignalName(click.ParamType):
    """A signal of this system that can be caught; the name as it was given."""

    name = "name"

    def convert(self, value, param, ctx):
        from mpirecon.parallel.stopping import signal_number

        signal_number(value)
        return value


class Memory(click.ParamType):
    """``8G`` → bytes; 0 keeps nothing."""

    name = "size"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        if value == "0":
            return 0
        try:
            return parse_memory(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


class Keep(click.ParamType):
    """``auto`` or a fraction in (0, 1]."""

    name = "auto|fraction"

    def convert(self, value, param, ctx):
        if value is None or value == "auto":
            return value
        try:
            return FRACTION.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}, or auto", param, ctx)


@click.command("reconstruct", short_help="Reconstruct a map from particles.", cls=DocumentedCommand)
@click.argument("particles", type=EXISTING_FILE)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="FOLDER",
              help="Folder for maps, FSC, logs and summary.")
@click.option("--loss", type=click.Choice(LOSSES), default="l2", show_default=True,
              help="How particles are weighted: l2 all alike (clean sets); sorted keeps those with the smallest "
              "distances (if the fraction of correct particles is known); posterior by the probability of a correct "
              "pose (if it is not known; for tilt series with --group-by); the others by robust weights. See "
              "docs/robust.md.")
@click.option("--keep", type=Keep(), metavar="auto|X", help="Fraction of particles that --loss sorted keeps, e.g. 0.7; "
              "or auto, to estimate it. posterior estimates the fraction of correct particles unless it is given here.")
@click.option("--distance", type=click.Choice(["raw", "whitened", "explained", "correlation"]), default="explained",
              show_default=True, help="The distance by which particles are sorted or weighted. 'raw' sorts them by "
              "their noise. posterior goes by probabilities, whatever the distance.")
@click.option("--solver", type=click.Choice(solver_names()), default="normal", show_default=True,
              help="Normal equations, or preconditioned gradient descent.")
@click.option("--iterations", type=COUNT, help="Outer iterations.  [default: 1 for l2, 5 for robust losses, 10 "
              "gradient; 2 more where poses are searched]")
@click.option("--folds", type=COUNT,
              help="Parts of each half set; each is scored against the map of the others. 1: score inside the half.  "
              "[default: 4; 8 with --group-by where a half set has fewer than 64 groups]")
@click.option("--group-by", metavar="COLUMN", help="Column of the imported table (e.g. rlnTomoParticleName): rows with "
              "the same value are correct or incorrect together, and are scored as a unit.")
@click.option("--weights", metavar="COLUMN|FILE:COLUMN", help="Weights of the particles, multiplied with those of the "
              "loss; particles of weight 0 are ignored: a column of the imported table (e.g. "
              "rlnParticleFigureOfMerit), or of a CSV file or a run's particles.h5.")
@click.option("--sort-scope", type=click.Choice(["global", "batch"]), default="global", show_default=True,
              help="Sort all particles of all ranks, or those of the batch a rank holds.")
@click.option("--schedule", type=click.Choice(["plain", "graduated"]), help="graduated: the selection starts relaxed, "
              "so that a poor initial map does not lock in a poor selection.  [default: graduated for posterior and "
              "--keep auto, else plain]")
@click.option("--batch-size", type=Whole(min=0), metavar="N", default=0, show_default=True,
              help="Particles per gradient step over all ranks; 0 takes all.")
@click.option("--step", type=POSITIVE, default=1.0, show_default=True, help="Gradient step; 1 is a full Newton-like "
              "step.")
@click.option("--momentum", type=NON_NEGATIVE, default=0.3, show_default=True, help="Fraction of the last step kept.")
@click.option("--max-resolution", type=POSITIVE, metavar="Å", help="Finest resolution used.  [default: Nyquist]")
@click.option("--score-band", type=Band(), metavar="Å:Å", help="Resolutions that particles are scored on, e.g. 60:12.")
@click.option("--mask", type=FileOr("auto"), metavar="FILE|auto", help="Soft mask (MRC), 0 … 1; or auto: particles are "
              "scored in a sphere, and the final map gets a mask made from itself.  [default: a sphere]")
@click.option("--diameter", type=POSITIVE, metavar="Å", help="Diameter of the spherical mask.  [default: fits the box]")
@click.option("--symmetry", default="C1", show_default=True, metavar="GROUP",
              help="Point group in RELION's setting: C1, C2 …, D1, D2 …, T, O, I (I2), I1, I2, I3 or I4.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint that an interrupted run left in the output "
              "folder; start a new run if there is none.")
@click.option("--deterministic", is_flag=True, help="The same bits on any number of ranks and threads: sums in whole "
              "numbers. CPUs only; twice the memory for accumulators.")
@click.option("--checkpoint-every", type=Every(), metavar="N|TIME", default="1", show_default=True,
              help="Save the run's state after so many iterations, or after the first iteration that ends so much time "
              "(e.g. 30m) after the last.")
@click.option("--checkpoint-signal", type=SignalName(), default="USR1", show_default=True, metavar="NAME",
              help="Signal on which the iteration under way is finished and saved, and the run ends with code 75. TERM "
              "and USR2 end it without waiting for the iteration.")
@click.option("--grace", type=NON_NEGATIVE, default=240.0, show_default=True, metavar="SECONDS",
              help="How long the iteration may take to finish after that signal; then the last checkpoint has to do.")
@click.option("--stall-timeout", type=NON_NEGATIVE, default=1800.0, show_default=True, metavar="SECONDS",
              help="End the job when a rank makes no step for so long; 0: never.")
@click.option("--padding", type=Number(1.25, 2, metavar="factor"),
              help="Side of the Fourier grid over the box: 2 interpolates more exactly than 1.5, for 2.4 times the "
              "memory and, in large boxes, twice the time.  [default: 2 up to box 96, else 1.5]")
@click.option("--solve-iterations", type=Whole(min=0), metavar="N",
              help="Conjugate-gradient steps on the final maps.  [default: as many as the noise leaves a use for]")
@click.option("--threads", type=COUNT, help="Threads of each rank.  [default: OMP_NUM_THREADS, else the cores divided "
              "by the ranks of the host]")
@click.option("--memory", type=Memory(), help="Memory that each rank may keep prepared images in, e.g. 8G; 0 reads "
              "them in each pass.  [default: 1 GB, at most a quarter of what is free]")
@click.option("--particle-scores", is_flag=True, help="With --loss l2, compare every particle with the maps; else a "
              "500 of a larger set, and each image is read once.")
@click.option("--half-precision", is_flag=True, help="Keep prepared images as float16: twice as many fit.")
@click.option("--dry-run", is_flag=True, help="Print memory, traffic and time that the run will take, and whether it "
              "fits; do nothing else.")
@click.option("--normalise", type=click.Choice(NORMALISE), default="auto", show_default=True,
              help="Take each image's background off, the plane through what is outside the particle, and bring images "
              "to one gain where signal and noise together differ in scale; background: not the second; off: neither.")
@click.option("--poses", type=click.Choice(POSES), default="fixed", show_default=True,
              help="fixed: use the given poses; rescue: search new poses for particles that --loss posterior rejects, "
              "before the last two iterations, and use those with sufficient evidence; refine: also move the other "
              "poses locally, by as much as the data show that given poses are wrong (docs/pose_search.md).")
@click.option("--search-offset", type=NON_NEGATIVE, metavar="Å", help="How far a searched particle may be off its "
              "given place, on each side; 0: offsets are right, which is much faster in small boxes and finds more. "
              "Where they are not, wrong poses are accepted.  [default: 5 pixels]")
@click.option("--search-sigma", type=POSITIVE, metavar="DEG", help="Search near the given orientations, for errors of "
              "this standard deviation on each axis; where they are larger, wrong poses are accepted.  [default: all "
              "orientations]")
@click.option("--skip-bad", is_flag=True, help="Leave out images with NaN or without contrast, instead of ending.")
@click.option("--log-particles", type=click.Choice(["none", "last", "all"]),
              help="Iterations for which the rank logs list each sorted particle.  [default: all; last for more than "
                   "100,000 particles]")
@click.option("--reference", type=EXISTING_FILE, metavar="FILE", help="Map that the particles were refined against "
              "(MRC): the result is compared with it, with a warning if hand, contrast, box or pixel size are wrong. "
              "It does not change the result.")
@click.option("--half-map-scores", is_flag=True, help="Also compare all particles with the final half maps, as "
              "mpirecon score does: columns score_own, score_other … of particles.h5. Reads every image twice more.")
@click.option("--controls", is_flag=True, help="Also reconstruct the rejected particles alone, and a random selection "
              "of the same size as the kept ones: three more passes over the data.")
@click.option("--no-postprocess", "postprocess", is_flag=True, default=True, flag_value=False,
              help="Leave out what follows from the half maps: automatic mask, phase-randomised FSC, FSC in cones, "
              "B-factor and sharpened map.")
@click.option("--space", type=click.Choice(["fourier", "real"]), default="fourier", show_default=True,
              help="How projections are made: central slices, or line integrals in real space, which are slow and "
              "check them.")
@backend_option
@transport_option
@seed_option
@overwrite_option
@verbosity_options
@pass_communicator
def command(comm, particles, output, log_particles, half_map_scores, reference, controls, postprocess, resume, dry_run,
            checkpoint_every, checkpoint_signal, grace,
            stall_timeout, overwrite, quiet, verbose, **options):
    """Reconstruct a map from PARTICLES: a particle file made by simulate or import,
    a RELION STAR file or a cryoSPARC .cs file.

    Runs alone or under mpirun/srun on any number of ranks; each reads a part of the particles (its slab). Images of a
    STAR or .cs file are read from their stacks, which FOLDER/linked.h5 refers to; options that say how such a file is
    read come last below, and are those of import.

    \b
    Examples:
      mpirecon reconstruct particles.h5 -o run1
      mpirun -n 4 mpirecon reconstruct particles.h5 -o run2 --loss sorted --keep 0.7
      mpirecon reconstruct run_data.star -o run3 --select rlnClassNumber=2 --new-halves
    """
    reading = reading_of(options)
    if dry_run:
        from mpirecon.api.options import refuse_unmade_mask
        from mpirecon.parallel.console import Console

        config = configure(**options)
        refuse_unmade_mask(config, postprocess)
        return _dry_run(comm, particles, reading, config, reference, Console(comm, quiet, verbose))
    import mpirecon

    mpirecon.reconstruct(
        particles, output, comm=comm, overwrite=overwrite, resume=resume, controls=controls, postprocess=postprocess,
        log_particles=log_particles, half_map_scores=half_map_scores, reference=reference,
        checkpoint_every=checkpoint_every, checkpoint_signal=checkpoint_signal, grace=grace,
        stall_timeout=stall_timeout, began=cli.began, verbose=verbosity(quiet, verbose), **named(options), **reading,
    )  # fmt: skip


command.params += READING


def _dry_run(comm, particles, reading, config, reference, console) -> None:
    from mpirecon.batch.calibration import calibration
    from mpirecon.batch.dry_run import dry_run
    from mpirecon.batch.forecast import GPUS_UNKNOWN, Task
    from mpirecon.parallel.agree import run_first
    from mpirecon.parallel.threads import default_memory, default_threads
    from mpirecon.solvers.first_checks import check_given

    neighbours = comm.allgather(comm.hostname).count(comm.hostname)

    def plan():
        with glance(particles, reading, console) as file:
            check_given(file, config, reference)
            return Task.of(file, config, default_memory(neighbours))

    task = comm.bcast(run_first(comm, plan))
    for line in dry_run(comm, task, config.threads or default_threads(neighbours)):
        console.say(line)
    if damage := calibration().damage:
        console.warn(damage)
    if config.backend == "cuda":
        console.warn(GPUS_UNKNOWN)


def named(options: dict) -> dict:
    """Values of the options that change a reconstruction's result, by the names of ``mpirecon.reconstruct``."""
    options = dict(options)
    return {"score_resolution": options.pop("score_band"), **options}


def configure(**options):
    """The Config of the options that change a reconstruction's result."""
    from mpirecon.solvers.config import Config

    options = named(options)
    return Config(**{**options, "mask": str(options["mask"]) if options["mask"] else None})
