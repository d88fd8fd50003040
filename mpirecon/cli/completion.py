"""``mpirecon completion``: what makes a shell complete commands, options and their values."""

from __future__ import annotations

import click

from mpirecon.cli.help import DocumentedCommand

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=DocumentedCommand)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell):
    """Print a script that makes SHELL complete commands, options and their values with the tab key.

    \b
    Examples:
      eval "$(mpirecon completion bash)"        # in ~/.bashrc (bash 4.4 or newer)
      eval "$(mpirecon completion zsh)"         # in ~/.zshrc
      mpirecon completion fish > ~/.config/fish/completions/mpirecon.fish
    """
    from click.shell_completion import get_completion_class

    from mpirecon.cli import group

    # click asks bash for its version when the class is used, not when its script is printed
    completion = get_completion_class(shell)(group, {}, "mpirecon", "_MPIRECON_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())
