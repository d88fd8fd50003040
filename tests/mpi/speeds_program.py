"""Runs on ranks of different speed: `speeds_program.py PARTICLES FOLDER`; hosts and speeds are made up."""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

import mpirecon as mr
from mpirecon.backend import get_backend
from mpirecon.parallel.comm import get_communicator
from mpirecon.solvers import problem, speeds

particles, folder = Path(sys.argv[1]), Path(sys.argv[2])
comm, events = get_communicator(), []
log, console = SimpleNamespace(event=lambda name, **facts: events.append((name, facts))), SimpleNamespace(say=print)
backend = get_backend("cpu", 24, 6.0)

# one host: nothing is measured
assert speeds.rank_shares(comm, backend, log, console) is None and not events
# several hosts: all ranks have the same answer, and nothing but sense in it
with patch.object(comm, "hostname", f"host{comm.rank}"):
    shares = speeds.rank_shares(comm, backend, log, console)
assert len({None if found is None else tuple(found) for found in comm.allgather(shares)}) == 1
assert shares is None or (len(shares) == comm.size and shares.max() == 1 and shares.min() > 0 and len(events) == 1)

# the rest of a run takes the parts as they are
uneven = np.linspace(0.3, 1.0, comm.size)
about = mr.open(particles)
wrong = {"loss": "posterior", "poses": "rescue", "search_offset": 0.0}
with patch.object(problem, "rank_shares", lambda *_: uneven):
    for name, options in {"sorted": {"loss": "sorted", "keep": 0.7, "iterations": 3}, "rescue": wrong}.items():
        run = mr.reconstruct(about, folder / name, comm=comm, **options)
        if comm.rank == 0:
            parts = [rank["particles"] for rank in run.summary["ranks"]]
            assert abs(np.array(parts) / sum(parts) - uneven / uneven.sum()).max() < 0.01, parts
