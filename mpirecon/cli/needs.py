"""Options that have no effect without another one, of all commands; options of a reconstruction's method check
themselves (``mpirecon.solvers.config``)."""

from __future__ import annotations

import click

from mpirecon.errors import UserError

#: option → what it has no effect without
_NEEDS = {
    **{f"--locres-{name}": "--local-resolution"
       for name in ("sampling", "maskrad", "edgwidth", "randomize-at", "minres", "threshold")},
    "--threads": "--local-resolution",  # of postprocess alone
    "--preferred-angle": "--preferred-views",
    "--orientation-error": "--orientation-error-rate",
    "--defocus-error-kind": "--defocus-error",
    "--max-bad": "--skip-bad",
    "--step": "--solver gradient",
    "--momentum": "--solver gradient",
}  # fmt: skip

#: options that --no-ctf excludes, which says more than that another one has no effect
_EXCLUDED = {"--ctf-premultiply", "--ctf-phase-flip", "--defocus-error"}

#: option → what leaves it without effect
_IDLE = dict.fromkeys(("--defocus", "--astigmatism", "--cs", "--amplitude-contrast", "--phase-shift", "--bfactor"),
                      "--no-ctf")


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
    for option, other in _IDLE.items():
        if {option, other} <= given and not _EXCLUDED & given:
            raise UserError(f"{option} has no effect with {other}: leave one of them out")
