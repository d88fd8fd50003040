"""Sums of device arrays by every transport, with short messages; the device is the stand-in for CuPy."""

import json
import os

import numpy as np

from mpirecon.backend.gpu import Gpu
from mpirecon.errors import UserError
from mpirecon.parallel import cuda_support
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.placement import place_ranks
from mpirecon.parallel.slab import slab
from mpirecon.parallel.transport import choose_transport

comm = get_communicator(message_bytes=100)  # 25 float32: many messages, the last one shorter
placement = place_ranks(comm, "cuda")
gpu = Gpu(placement.index, placement.sharing)
length = 4 * 61 + comm.size

rng = np.random.default_rng(0)
values = rng.standard_normal((comm.size, length)).astype(np.float32)
host = values[comm.rank].copy()
comm.allreduce(host)


def judge(transport):
    """Both calls against the communicator's sums of host arrays."""
    before = comm.traffic["bytes_moved"]
    summed = transport.allreduce(gpu.to_device(values[comm.rank].reshape(-1, 1))).get()[:, 0]
    moved = comm.traffic["bytes_moved"] - before
    assert np.abs(summed - host).max() <= 1e-6 * np.abs(host).max(), transport.name
    assert comm.allgather(summed.tobytes()) == [summed.tobytes()] * comm.size
    assert moved >= 4 * length, (transport.name, moved)
    part = transport.reduce_scatter(gpu.to_device(values[comm.rank]))
    first, last = slab(length, comm.size, comm.rank)
    assert isinstance(part,
                      np.ndarray) and np.abs(part - host[first:last]).max() <= 1e-6 * np.abs(host).max(), transport.name
    assert np.array_equal(transport.reduce_scatter(values[comm.rank]), comm.reduce_scatter(values[comm.rank]))
    return part


parts = {}
for name in ("staged", "nccl"):
    transport, why = choose_transport(comm, gpu, placement, name)
    assert transport.name == name, (transport, why)
    parts[name] = judge(transport)
assert np.array_equal(parts["staged"], parts["nccl"])  # the same order of additions

# this MPI says that it is not CUDA-aware, or does not say and dies in the trial
transport, why = choose_transport(comm, gpu, placement, "auto")
assert transport.name == "nccl" and "does not accept GPU memory" in why, (transport.name, why)
try:
    choose_transport(comm, gpu, placement, "cuda-aware")
except UserError as error:
    assert "transport cuda-aware" in str(error) and "mpi4py" in str(error) and "transport staged" in str(error)
else:
    raise AssertionError("a transport that this MPI does not have was accepted")

# what follows a yes: the stand-in's memory is the host's, so the trial process and the sum on trial succeed
cuda_support.what_mpi_says = lambda: (True, "told so")
transport, why = choose_transport(comm, gpu, placement, "auto")
assert transport.name == "cuda-aware" and "on trial" in why, (transport.name, why)
assert np.array_equal(judge(transport), parts["staged"])

# a yes that was wrong: the process on trial is killed, the ranks are not
cuda_support.TRIAL = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
transport, why = choose_transport(comm, gpu, placement, "auto")
assert transport.name == "nccl" and "SIGSEGV" in why, (transport.name, why)

# a sum that comes out wrong is not trusted either
cuda_support.trial = lambda device: (True, "")
comm.allreduce_device = lambda part: None
transport, why = choose_transport(comm, gpu, placement, "auto")
assert transport.name == "nccl" and "was wrong" in why, (transport.name, why)

os.environ["CUDA_VISIBLE_DEVICES"] = "0"
if comm.rank == 0:
    print(json.dumps({"lines": placement.lines, "warning": placement.warning}))
