"""The ``mpirecon`` command: a click group whose commands are imported only when they are called."""

from __future__ import annotations

import importlib

import click

from mpirecon import __version__

#: command → (module, one-line help); kept here so that ``mpirecon --help`` imports no command
COMMANDS = {
    "simulate": ("mpirecon.cli.simulate", "Make a particle file from a map, an atomic model or a phantom."),
    "import": ("mpirecon.cli.import_", "Make a particle file from a RELION STAR file and its stacks."),
    "reconstruct": ("mpirecon.cli.reconstruct", "Reconstruct a map from a particle file."),
    "fsc": ("mpirecon.cli.fsc", "Fourier shell correlation of two maps."),
    "project": ("mpirecon.cli.project", "Reproject a map at the poses of a particle file."),
    "logs": ("mpirecon.cli.logs", "Join the ranks' logs of a run: what was sorted where, and kept."),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is used."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[name][0]).command

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpirecon")
def group() -> None:
    """Robust cryo-EM 3-D reconstruction on MPI and GPUs."""


def main() -> None:
    """Entry point: run the command, and turn errors into one message and a non-zero exit code on all ranks."""
    group()
