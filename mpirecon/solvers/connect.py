"""Joins the ranks' devices: how sums over ranks are made, and what is reported of it."""

from __future__ import annotations

from mpirecon.backend.protocol import Backend
from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.placement import Placement


def connect(comm: Communicator, backend: Backend, placement: Placement, wanted: str, log, console) -> str | None:
    """Give a backend on GPUs its transport; returns the transport's name, None where there is nothing to join.
    Collective.

    Raises UserError, on all ranks, when the transport that was asked for cannot be had.
    """
    if placement.backend == "cpu":
        with together(comm):
            if wanted != "auto":
                raise UserError(f"--transport {wanted} is how GPU arrays travel, and there are none here: "
                                f"{placement.reason}")
        if placement.reason:
            log.event("no GPU", reason=placement.reason)
        return None
    from mpirecon.parallel.transport import choose_transport  # it needs CuPy's words

    transport, why = choose_transport(comm, backend.gpu, placement, wanted)
    backend.join(transport)
    name = None if transport is None else transport.name
    log.event("device", index=placement.index, gpu=placement.name, uuid=placement.uuid, sharing=placement.sharing,
              transport=name, why=why)  # fmt: skip
    for line in placement.lines:
        console.say(line)
    if transport is not None:
        console.say(f"transport {name}: {why}")
    if placement.warning:
        console.warn(placement.warning)
    return name
