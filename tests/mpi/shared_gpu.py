"""Ranks that share a GPU: what they are told, and what NCCL says to it. The device is the stand-in for CuPy."""

from mpirecon.backend.gpu import Gpu
from mpirecon.errors import UserError
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.placement import place_ranks
from mpirecon.parallel.transport import choose_transport

comm = get_communicator()
placement = place_ranks(comm, "auto")
assert placement.backend == "cuda" and placement.sharing == comm.size and not placement.one_gpu_a_rank
assert all(f"shared by {comm.size} ranks" in line for line in placement.lines) and "share a GPU" in placement.warning
gpu = Gpu(placement.index, placement.sharing)
assert gpu.free_bytes() * comm.size <= gpu.cupy.cuda.runtime.memGetInfo()[1]
transport, why = choose_transport(comm, gpu, placement, "auto")
assert transport.name == "staged" and "NCCL needs a separate GPU" in why, why
try:
    choose_transport(comm, gpu, placement, "nccl")
except UserError as error:
    assert "ranks share one; use transport staged" in str(error)
else:
    raise AssertionError("NCCL was accepted on a shared GPU")
