"""The options by which ``simulate`` and ``import`` simulate errors of poses and CTFs: one list for both."""

from __future__ import annotations

import functools

import click

from mpirecon.cli.options import ErrorKind


def error_options(rate: str, degrees: str, old: str):
    """Options of simulated errors, passed under the names of ErrorSettings' fields.

    rate, degrees : the names that fraction and size of orientation errors are passed under
    old : another spelling of the option for the fraction
    """
    number = functools.partial(click.option, type=float)
    options = (
        number("--orientation-error-rate", old, rate, metavar="X", default=0.0, show_default=True,
               help="Fraction of particles whose given orientation is wrong; the truth is recorded in the file."),
        click.option("--orientation-error", "--error-kind", degrees, type=ErrorKind(), default="random",
                     show_default=True,
                     metavar="random|DEG", help="Wrong orientations: uniformly random, or the true one rotated about a "
                     "random axis by a half-Gaussian angle of DEG degrees."),
        number("--offset-error", metavar="Å", default=0.0, show_default=True,
               help="Standard deviation of a Gaussian error of the offset, along x and along y."),
        number("--offset-error-rate", metavar="X",
               help="Fraction of particles whose offset is wrong.  [default: those with wrong orientations]"),
        number("--defocus-error", metavar="Å", default=0.0, show_default=True,
               help="Error of the defocus, U and V alike."),
        click.option("--defocus-error-kind", type=click.Choice(["gaussian", "fixed"]), default="gaussian",
                     show_default=True,
                     help="Whether --defocus-error is the standard deviation of a Gaussian error, or the error "
                     "itself."),
        number("--defocus-error-rate", metavar="X",
               help="Fraction of particles whose defocus is wrong.  [default: all]"),
        number("--inverted-hand-rate", metavar="X", default=0.0, show_default=True,
               help="Fraction of particles with the pose that they have in the map of opposite hand."),
        number("--duplicate-rate", metavar="X", default=0.0, show_default=True,
               help="Fraction of particles of which a copy is added to the other half set: the half maps then share "
               "noise."),
    )

    def decorate(function):
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
