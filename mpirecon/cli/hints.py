"""What an error adds when a word is unknown: what it may have been meant for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with up to three of the known words that are like this one, blank first; "" where none is."""
    by_lower = {name.lower(): name for name in known}
    close = [by_lower[name] for name in difflib.get_close_matches(word.lower(), by_lower, 3)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def explain_option(error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
    """The error about an option that this command has not, naming the commands that have it."""
    from mpirecon.cli import COMMANDS

    owners = [name for name in _owners(error.option_name) if name != ctx.info_name]
    if not owners:
        return error
    text = f"No such option: '{error.option_name}' is an option of {_listed(owners)}, not of {ctx.info_name}."
    if ctx.info_name == "job" and "reconstruct" in owners:
        text += f" Options of reconstruct follow after --: mpirecon job … -- {error.option_name} …"
    if error.option_name == "--ranks" and ctx.info_name in COMMANDS and COMMANDS[ctx.info_name].parallel:
        text += f" Ranks are started by the launcher: mpirun -n N mpirecon {ctx.info_name} …"
    return click.UsageError(text, ctx)


def explain_value(
    error: click.BadParameter, command: click.Command, ctx: click.Context, args: list[str]
) -> click.BadParameter:
    """The error about a value that is none of an option's or argument's choices, with those that are like it."""
    if not (error.param and isinstance(error.param.type, click.Choice)):
        return error
    given = command.make_parser(ctx).parse_args(list(args))[0].get(error.param.name)
    for word in given if isinstance(given, (list, tuple)) else [given]:
        if isinstance(word, str) and word not in error.param.type.choices:
            error.message += did_you_mean(word, map(str, error.param.type.choices))
    return error


def _owners(option: str) -> list[str]:
    """Names of the commands that have this option; those that share all of reconstruct's are not named beside it."""
    from mpirecon.cli import COMMANDS, group

    ctx = click.Context(group)
    found = [name for name in COMMANDS if any(option in p.opts for p in group.get_command(ctx, name).params)]
    return [name for name in found if name != "null" or "reconstruct" not in found]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
