"""``mpirecon simulate``: a particle file from a map, an atomic model or the phantom."""

from __future__ import annotations

import math
import shlex
import sys

import click

from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.error_options import error_options
from mpirecon.cli.options import POSITIVE, overwrite_option, seed_option, verbosity, verbosity_options


class DefocusRange(click.ParamType):
    """``LOW:HIGH`` or one number in µm, as (low, high) in Å."""

    name = "low:high"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        low, _, high = value.partition(":")
        try:
            return 1e4 * float(low), 1e4 * float(high or low)
        except ValueError:
            self.fail(f"{value!r} is not LOW:HIGH, two numbers of µm", param, ctx)


@click.command("simulate", cls=DocumentedCommand)
@click.option("--map", "map_path", type=click.Path(), metavar="FILE",
              help="Density map (MRC), resampled to the box; its solvent level becomes 0.")
@click.option("--model", "model_path", type=click.Path(), metavar="FILE",
              help="Atomic model (mmCIF or PDB), as electron-scattering density.")
@click.option("--phantom", "use_phantom", is_flag=True, help="A built-in object without symmetry.")
@click.option("--second-map", type=click.Path(), metavar="FILE", help="Map (MRC) or atomic model of a second "
              "conformation.  [default with --phantom: its own]")
@click.option("--second-fraction", type=float, metavar="X", default=0.0, show_default=True,
              help="Fraction of particles of the second conformation.")
@click.option("--preferred-views", type=float, metavar="X", default=0.0, show_default=True,
              help="Fraction of particles that are seen along the map's z axis; the others from everywhere.")
@click.option("--preferred-angle", type=float, metavar="DEG", default=20.0, show_default=True,
              help="Largest angle between these views and that axis.")
@click.option("--particles", type=int, metavar="N", default=5000, show_default=True, help="Number of images.")
@click.option("--box", type=int, metavar="N", help="Side of the images, pixels.  [default: the map's, or 64]")
@click.option("--pixel-size", type=POSITIVE, metavar="Å", help="Å.  [default: the map's, or 3]")
@click.option("--snr", type=float, metavar="X", default=0.1, show_default=True,
              help="Variance of the noiseless images (CTF applied, whole box) over the variance of the noise, per "
              "pixel, averaged over the set; inf for no noise.")
@click.option("--noise-cv", type=float, metavar="X", default=0.0, show_default=True,
              help="Spread of the noise level between particles (log-normal): standard deviation over mean.")
@click.option("--scale-cv", type=float, metavar="X", default=0.0, show_default=True,
              help="Spread of the contrast between particles (log-normal); it is not given to a reconstruction.")
@click.option("--noise-colour", type=float, metavar="X", default=0.0, show_default=True,
              help="The noise rises towards low frequencies, with an exponent between 0 and X that each micrograph has "
              "for itself.")
@click.option("--micrographs", type=int, metavar="N", default=20, show_default=True,
              help="Number of micrographs that the particles are assigned to.")
@click.option("--neighbour-rate", type=float, metavar="X", default=0.0, show_default=True,
              help="Fraction of images with a neighbour that reaches into the box.")
@click.option("--background", type=float, metavar="X", default=0.0, show_default=True,
              help="Level and slopes under each image, standard deviations of the noise.")
@click.option("--junk-rate", type=float, metavar="X", default=0.0, show_default=True,
              help="Fraction of images that are noise only.")
@error_options("error_rate", "error_degrees", "--error-rate")
@click.option("--defocus", type=DefocusRange(), default="0.8:2.5", show_default=True,
              help="Range of defocus, µm underfocus.")
@click.option("--astigmatism", type=float, metavar="Å", default=300.0, show_default=True,
              help="Spread of defocus U − V, Å.")
@click.option("--voltage", type=float, metavar="kV", default=300.0, show_default=True, help="kV.")
@click.option("--cs", type=float, metavar="mm", default=2.7, show_default=True, help="Spherical aberration, mm.")
@click.option("--amplitude-contrast", type=float, metavar="X", default=0.1, show_default=True, help="Fraction.")
@click.option("--phase-shift", type=float, metavar="DEGREES", default=0.0, show_default=True,
              help="Phase plate, degrees.")
@click.option("--bfactor", type=float, metavar="Å²", default=0.0, show_default=True, help="Envelope exp(−B k²/4), Å².")
@click.option("--no-ctf", "use_ctf", is_flag=True, flag_value=False, default=True,
              help="Plain projections; the file then holds a CTF that is 1 everywhere.")
@click.option("--ctf-premultiply", "ctf_premultiplied", is_flag=True, help="Multiply the noisy images by their CTF.")
@click.option("--ctf-phase-flip", "ctf_phase_flipped", is_flag=True, help="Multiply the noisy images by the sign of "
              "their CTF.")
@click.option("--shift-sigma", type=float, metavar="Å", default=3.0, show_default=True,
              help="Standard deviation of each shift, Å.")
@click.option("--halves", type=click.Choice(["random", "alternate"]), default="random", show_default=True,
              help="How particles are assigned to half sets.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
              help="Type of the stored pixels.")
@seed_option
@click.option("--truth-map", type=click.Path(), metavar="FILE", help="Also write the volume the images are made from "
              "(MRC).")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", required=True, help="Particle file to write (HDF5).")
@overwrite_option
@verbosity_options
def command(map_path, model_path, use_phantom, particles, output, phase_shift, second_map, quiet, verbose, **options):
    """Make a particle file with known truth from a map, an atomic model or a phantom.

    What is random about a particle depends on --seed and its number alone: more particles, another batch or another
    option leave everything else as it was.

    \b
    Examples:
      mpirecon simulate --phantom --snr 0.05 --orientation-error-rate 0.3 --offset-error 5 -o particles.h5
      mpirecon simulate --map emd_3488.mrc --box 64 --pixel-size 1.64 --junk-rate 0.1 -o particles.h5
      mpirecon simulate --model 5ni1.cif --orientation-error 10 --orientation-error-rate 0.5 -o particles.h5
    """
    import mpirecon

    choices = {"--map": map_path, "--model": model_path, "--phantom": use_phantom}
    given = [name for name, value in choices.items() if value]
    if len(given) != 1:
        raise mpirecon.UserError(f"give one of --map, --model and --phantom, got {' and '.join(given) or 'none'}")
    mpirecon.simulate(
        map_path, particles, output, model=model_path, second=second_map, phase_shift=math.radians(phase_shift),
        verbose=verbosity(quiet, verbose), command=shlex.join(["mpirecon", *sys.argv[1:]]), **options,
    )  # fmt: skip
