"""What each rank hears of a call that is to fail on all of them."""

from __future__ import annotations

from collections.abc import Callable

import mpirecon as mr


def said_on_ranks(comm, call: Callable[[], object]) -> list[str]:
    """The errors of a collective call, one for each rank; "nothing" where it has none."""
    try:
        call()
        said = "nothing"
    except (mr.UserError, ValueError) as error:
        said = str(error)
    return comm.allgather(said)
