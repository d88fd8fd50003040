"""Imports by the command, as the tests of several formats make them."""

from click.testing import CliRunner

from mpirecon.cli.import_ import command
from mpirecon.io.particle_file import ParticleFile


def run(table, *args, output=None):
    """Import by the command; returns (ParticleFile, what was printed)."""
    output = output or table.parent / "out.h5"
    result = CliRunner().invoke(command, [str(table), "-o", str(output), *map(str, args)])
    if result.exception:
        raise result.exception
    return ParticleFile(output), result.output
