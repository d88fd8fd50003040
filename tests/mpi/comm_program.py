"""Every call of the communicator against what NumPy says, on however many ranks mpirun gives."""

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import RankFailed, get_communicator, run_together
from mpirecon.parallel.slab import slab
from mpirecon.solvers.groups import WHOLE, MapSet, half_map

comm = get_communicator()
ranks = range(comm.size)


def data(rank, n, dtype=np.float64, seed=0):
    values = np.random.default_rng([seed, rank, n]).normal(size=n) * 100
    return values.astype(dtype) if np.dtype(dtype).kind != "c" else (values + 1j * values[::-1]).astype(dtype)


def check_objects():
    assert comm.bcast({"from": comm.rank}, root=comm.size - 1) == {"from": comm.size - 1}
    assert comm.allgather(comm.rank) == list(ranks)
    gathered = comm.gather(str(comm.rank), root=0)
    assert gathered == ([str(r) for r in ranks] if comm.rank == 0 else None)
    assert comm.allreduce_scalar(comm.rank + 1) == sum(r + 1 for r in ranks)
    assert isinstance(comm.allreduce_scalar(1.5, "max"), float)
    assert sorted(comm.allgather(comm.local_rank)) == list(ranks)  # one host, in whatever order it was filled
    comm.barrier()


def check_reductions(n, dtype):
    every = [data(r, n, dtype) for r in ranks]
    tolerance = 1e-5 if np.dtype(dtype).itemsize // (1 + (np.dtype(dtype).kind == "c")) == 4 else 1e-12
    total = np.sum(every, axis=0, dtype=dtype)
    limit = tolerance * np.sum(np.abs(every), axis=0) + 1e-300

    mine = every[comm.rank].copy()
    assert comm.allreduce(mine) is mine
    assert (np.abs(mine - total) <= limit).all()
    again = comm.allreduce(every[comm.rank].copy())
    assert again.tobytes() == mine.tobytes()  # deterministic
    assert len(set(comm.allgather(mine.tobytes()))) == 1  # the same bits everywhere

    reduced = every[comm.rank].copy()
    result = comm.reduce(reduced, root=comm.size - 1)
    assert (result is reduced) == (comm.rank == comm.size - 1)
    assert (np.abs(reduced - total) <= limit).all() if result is not None else (reduced == every[comm.rank]).all()

    source = every[comm.rank].copy()
    part = comm.reduce_scatter(source)
    start, stop = slab(n, comm.size, comm.rank)
    assert part.dtype == dtype and part.shape == (stop - start,)
    assert (np.abs(part - total[start:stop]) <= limit[start:stop]).all() and (source == every[comm.rank]).all()

    whole = comm.gather_slabs(part, n, root=0)
    assert (whole is not None) == (comm.rank == 0)
    everywhere = comm.allgather_slabs(part, n)
    assert (everywhere[start:stop] == part).all()
    assert whole is None or (whole == everywhere).all()
    rows = np.repeat(part, 6).reshape(-1, 2, 3) if len(part) else np.empty((0, 2, 3), dtype)
    whole = comm.gather_slabs(rows, n, root=0)
    assert whole is None or (whole.shape == (n, 2, 3) and (whole == everywhere[:, None, None]).all())
    if np.dtype(dtype).kind != "c":
        assert (comm.allreduce(every[comm.rank].copy(), "max") == np.max(every, axis=0)).all()
        assert (comm.allreduce(every[comm.rank].copy(), "min") == np.min(every, axis=0)).all()


def check_bcast():
    for dtype in (np.uint8, np.bool_, np.dtype([("a", "f8"), ("b", "i2")]), np.complex64):
        expected = np.frombuffer(bytes(np.arange(240, dtype=np.uint8) % 2), dtype)
        mine = expected.copy() if comm.rank == comm.size - 1 else np.zeros_like(expected)
        assert comm.bcast_array(mine, comm.size - 1) is mine and mine.tobytes() == expected.tobytes()
    cube = np.full((3, 4, 5), comm.rank + 1.0)
    comm.allreduce(cube)
    assert (cube == sum(r + 1 for r in ranks)).all()


def check_hand_over():
    cube = np.random.default_rng(3).standard_normal((3, 4, 5))
    for owner in ranks:
        for root in ranks:
            if owner != root:
                found = comm.hand_over(cube if comm.rank == owner else None, cube.shape, cube.dtype, owner, root)
                assert (found is not None) == (comm.rank == root)
                assert found is None or (found == cube).all()


def check_maps():
    """A map is brought to one rank, to all, or taken away, whoever owns it."""
    box, maps = 4, MapSet(comm, 4)
    expected = {made_of: np.full((box,) * 3, 1.0 + k, np.float32) for k,
                made_of in enumerate((half_map(1), half_map(2), WHOLE))}
    for k, (made_of, volume) in enumerate(expected.items()):
        maps.place(made_of, k % comm.size, volume.copy() if comm.rank == k % comm.size else None)
    last = comm.size - 1
    for made_of, volume in expected.items():
        assert (maps.get(made_of) == volume).all()
        for root in ranks:
            found = maps.bring(made_of, root)
            assert (found is not None) == (comm.rank == root) and (found is None or (found == volume).all())
        found = maps.take(made_of, last)
        assert (found is not None) == (comm.rank == last) and (found is None or (found == volume).all())
        assert maps.owned(made_of) is None


def caught(function, error):
    try:
        function()
    except error as met:
        return met
    raise AssertionError(f"expected {error.__name__}")


def check_misuse():
    caught(lambda: comm.allreduce(np.zeros((4, 4))[:, 1]), ValueError)
    caught(lambda: comm.allreduce(np.zeros(3, np.uint8)), TypeError)
    caught(lambda: comm.allreduce(np.zeros(3), "mean"), ValueError)
    caught(lambda: comm.gather_slabs(np.zeros(comm.size + 99), 5), ValueError)


def check_agreement():
    assert run_together(comm, lambda: comm.rank) == comm.rank
    last = comm.size - 1

    def only_last():
        if comm.rank == last:
            raise UserError("row 7 is bad; mend it")

    text = str(caught(lambda: run_together(comm, only_last), UserError))
    assert text == ("" if comm.size == 1 else f"rank {last} on host {comm.hostname}: ") + "row 7 is bad; mend it", text

    def all_alike():
        raise UserError("the file is missing")

    assert str(caught(lambda: run_together(comm, all_alike), UserError)) == "the file is missing"

    def missing_file():
        if comm.rank == 0:
            open("/nowhere/at-all.h5")

    assert "/nowhere/at-all.h5: no such file" in str(caught(lambda: run_together(comm, missing_file), UserError))

    def defect():
        if comm.rank == 0:
            raise KeyError("a defect")

    met = caught(lambda: run_together(comm, defect), (KeyError if comm.rank == 0 else RankFailed))
    assert comm.rank == 0 or "rank 0 on host" in str(met)
    comm.barrier()  # the communicator still works


check_objects()
for limit in (2**30, 40, 8, 1):  # bytes a message: from one message to one number each
    comm.message_bytes = limit
    for n in (0, 1, 3, 37):
        for dtype in (np.float32, np.float64, np.int64, np.complex64, np.complex128):
            check_reductions(n, dtype)
    check_bcast()
    check_hand_over()
    check_maps()
check_misuse()
check_agreement()
assert comm.traffic["seconds"] > 0 and (comm.traffic["bytes_moved"] > 0) == (comm.size > 1)
if comm.rank == 0:
    print("ok", comm.size, type(comm).__name__)
