"""NCCL that does not start, on one rank or on all, or sums wrongly: told, and not taken.
The device is the stand-in for CuPy."""

from cupy.cuda import nccl

from mpirecon.backend.gpu import Gpu
from mpirecon.errors import UserError
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.placement import place_ranks
from mpirecon.parallel.transport import choose_transport

comm = get_communicator()
placement = place_ranks(comm, "cuda")
gpu = Gpu(placement.index, placement.sharing)


def fails(*_):
    raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")


def on_rank_0_fails(*_):
    if comm.rank == 0:
        fails()
    return object()


class Wrong(nccl.NcclCommunicator):
    def allReduce(self, *_):
        pass


well = {"get_unique_id": nccl.get_unique_id, "NcclCommunicator": nccl.NcclCommunicator}
for broken, said in (
    ({"get_unique_id": fails}, "NCCL_ERROR_SYSTEM_ERROR"),
    ({"NcclCommunicator": fails}, "NCCL_ERROR_SYSTEM_ERROR"),
    ({"NcclCommunicator": on_rank_0_fails}, "NCCL_ERROR_SYSTEM_ERROR"),
    ({"NcclCommunicator": Wrong}, f"a sum over {comm.size} ranks was wrong"),
):
    for name, value in (well | broken).items():
        setattr(nccl, name, value)
    transport, why = choose_transport(comm, gpu, placement, "auto")
    assert transport.name == "staged" and said in why, (transport.name, why)
    try:
        choose_transport(comm, gpu, placement, "nccl")
    except UserError as error:
        assert said in str(error) and "use transport staged" in str(error)
    else:
        raise AssertionError("an NCCL that does not work was taken")
