"""Whether a folder is the same one on all hosts: a run's ranks must see each other's files."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.folder_lock import SEEN
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator

#: seconds in which a file of one host must be seen by the others: longer than network file systems keep old listings
VISIBLE = 10.0


def refuse_unshared(comm: Communicator, folder: Path) -> None:
    """Raise UserError, on all ranks, where some do not see what rank 0 writes into its folder of this name.
    Collective."""
    if comm.size == 1:
        return

    def left() -> Path:
        path = folder / f"{SEEN}{secrets.token_hex(8)}"
        path.touch()
        return path

    path = comm.bcast(run_first(comm, left))
    ranks = comm.allgather((comm.hostname, _appears(path)))
    run_first(comm, path.unlink)
    blind = [rank for rank, (_, seen) in enumerate(ranks) if not seen]
    if blind:
        more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
        raise UserError(f"{folder} is not the same folder on all hosts: rank {blind[0]} on host {ranks[blind[0]][0]}"
                        f"{more} cannot see what rank 0 on host {ranks[0][0]} wrote there; choose one for -o on a file "
                        f"system that all hosts share")


def _appears(path: Path) -> bool:
    start = time.monotonic()
    while not path.exists():
        if time.monotonic() - start > VISIBLE:
            return False
        time.sleep(0.1)
    return True
