"""Which GPU each rank takes: its number among the ranks of its host, modulo the devices it sees."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.gpus import device_facts, load_cupy, try_out


@dataclass(frozen=True)
class Placement:
    """What this rank computes on, agreed with the others.

    backend : "cpu" or "cuda"
    index : device of this process, None on the CPU
    name : of the device, "" on the CPU
    uuid : its identity
    sharing : ranks that use it
    crowded : whether any ranks share one
    lines : "rank 0 → host → GPU-…" of all ranks
    reason : why ``auto`` did not take GPUs, or ""
    """

    backend: str
    index: int | None = None
    name: str = ""
    uuid: str = ""
    sharing: int = 1
    crowded: bool = False
    lines: tuple[str, ...] = ()
    reason: str = ""

    @property
    def warning(self) -> str:
        """What to say when ranks share a GPU; "" when none do."""
        if not self.crowded:
            return ""
        return "some ranks share a GPU: their kernels take turns and its memory is divided; start one rank for each GPU"

    @property
    def one_gpu_a_rank(self) -> bool:
        return self.backend == "cuda" and not self.crowded


def place_ranks(comm: Communicator, backend: str) -> Placement:
    """Agree on GPUs or CPUs for all ranks; collective.

    backend : "cpu", "cuda", or "auto" for GPUs where every rank has one that works, else CPUs.

    Raises
    ------
    UserError
        on all ranks, when "cuda" was asked for and a rank has no GPU that works, saying why.
    """
    if backend == "cpu":
        return Placement("cpu")
    facts, failure = _find(comm.local_rank)
    failures = comm.allgather(None if failure is None else f"rank {comm.rank} on host {comm.hostname}: {failure}")
    reason = next((text for text in failures if text), None)
    if reason is not None:
        with together(comm):
            if backend == "cuda" and failure is not None:
                raise failure
        return Placement("cpu", reason=reason)
    ranks = comm.allgather((comm.rank, comm.hostname, facts["uuid"], facts["name"]))
    users = Counter((host, uuid) for _, host, uuid, _ in ranks)
    lines = tuple(
        f"rank {rank} → {host} → {uuid} ({name})"
        + (f", shared by {users[host, uuid]} ranks" if users[host, uuid] > 1 else "")
        for rank, host, uuid, name in ranks
    )
    crowded = max(users.values()) > 1
    return Placement("cuda", facts["index"], facts["name"], facts["uuid"], users[comm.hostname, facts["uuid"]], crowded,
                     lines)


def _find(local_rank: int) -> tuple[dict, UserError | None]:
    """This rank's device, or why it has none."""
    try:
        cupy = load_cupy()
        index = local_rank % cupy.cuda.runtime.getDeviceCount()
        try_out(cupy, index)
        return {"index": index, **device_facts(cupy, index)}, None
    except UserError as error:
        return {}, error
