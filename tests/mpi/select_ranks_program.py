"""Each rank's decision about all particles is the one that ranks agree on by messages, and takes few of these."""

import sys
from pathlib import Path

import numpy as np

import mpirecon.robust.jointly as jointly
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.slab import slab
from mpirecon.robust.distances import EXPLAINED
from mpirecon.robust.losses import LOSSES
from mpirecon.robust.selection import RandomPoses
from mpirecon.robust.statistics import Statistics

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from particle_statistics import at_random, random_statistics  # noqa: E402

comm = get_communicator()
M = 400
whole = random_statistics(M)
drawn = at_random(whole)
mine = slice(*slab(M, comm.size, comm.rank))
statistics = Statistics(whole.sums[mine], whole.samples)
inside = (drawn.rows >= mine.start) & (drawn.rows < mine.stop)
random_poses = RandomPoses(drawn.rows[inside] - mine.start, Statistics(drawn.statistics.sums[inside], whole.samples))


def select(few, **options):
    """(a selection, calls of the communicator that it took)"""
    jointly.FEW, calls = few, []
    inner, type(comm).allreduce = type(comm).allreduce, lambda self, *a, **k: calls.append(1) or inner(self, *a, **k)
    try:
        return jointly.select_over_ranks(comm, statistics, np.arange(M)[mine], np.ones(len(statistics.yy), bool),
                                         exactly=False, distance=EXPLAINED, random_poses=random_poses,
                                         **options), len(calls)
    finally:
        type(comm).allreduce = inner


for loss in LOSSES:
    here, few = select(M, loss=loss, keep=0.6)
    there, many = select(M - 1, loss=loss, keep=0.6)
    assert few <= 2 and (many > few or comm.size == 1), (loss, few, many)
    np.testing.assert_array_equal(here.kept, there.kept, err_msg=loss)
    for name in ("weight", "distance", "posterior", "contrast"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-6, atol=1e-9, err_msg=loss)
if comm.rank == 0:
    print("ok", comm.size)
