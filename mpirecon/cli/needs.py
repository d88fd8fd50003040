"""Options that have no effect without another one, of all commands; options of a reconstruction's method check
themselves (``mpirecon.solvers.config``)."""

from __future__ import annotations

import click

from mpirecon.errors import UserError

#: option → what it has no effect without
_NEEDS = {
    **{f"--locres-{name}": "--local-resolution"
       for name in ("sampling", "maskrad", "edgwidth", "randomize-at", "minres", "threshold")},
    "--preferred-angle": "--preferred-views",
    "--orientation-error": "--orientation-error-rate",
    "--defocus-error-kind": "--defocus-error",
    "--max-bad": "--skip-bad",
    "--step": "--solver gradient",
    "--momentum": "--solver gradient",
}  # fmt: skip


def refuse_unused(ctx: click.Context) -> None:
    """Raise UserError where the command line has options that would be ignored."""
    named = {option: param.name for param in ctx.command.params for option in param.opts}
    given = {option for option, name in named.items()
             if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    for option, needed in _NEEDS.items():
        other, _, value = needed.partition(" ")
        if option not in given or other not in named:  # export's --step is another one
            continue
        if other not in given or value not in ("", ctx.params[named[other]]):
            raise UserError(f"{option} has no effect without {needed}: give that too, or leave {option} out")
