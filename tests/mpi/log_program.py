"""Each rank writes the log of a run that sorts planted particles; argument: the output folder."""

import sys

import numpy as np

from mpirecon.io.run_log import RankLog
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.select import smallest_k
from mpirecon.parallel.slab import slab

M, KEEP = 23, 14
comm = get_communicator()
rng = np.random.default_rng(5)  # the same on every rank
wrong = rng.random(M) < 0.4
mine = slice(*slab(M, comm.size, comm.rank))
ids = np.arange(M)[mine]
with RankLog.for_rank(sys.argv[1] + "/logs", comm, particles="all") as log:
    for iteration in (1, 2):
        distance = (rng.normal(size=M) + wrong * iteration)[mine]
        kept = smallest_k(comm, distance, ids, KEEP)
        order = np.argsort(distance, kind="stable")
        log.sort_record(iteration, "global", "all", ids, distance, ids[order], distance[order], kept[order],
                        wrong[mine][order])
