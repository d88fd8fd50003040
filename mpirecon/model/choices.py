"""Options that take one of a few words."""

from __future__ import annotations

from collections.abc import Collection

from mpirecon.errors import UserError


def check_choice(option: str, value, choices: Collection) -> None:
    """Raise UserError where `value` is none of `choices`; None among these stands for an option that is left out."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        words = ", ".join(choice for choice in choices if choice is not None)
        raise UserError(f"{option} {value}: choose one of {words}")
