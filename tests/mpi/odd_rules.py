"""Rules of one's own that fail on one rank, and names that mean something else there: odd_rules.py PARTICLES.

Each case must end with an error on all ranks, and none of them wait for another.
"""

import sys
from pathlib import Path

import numpy as np

import mpirecon as mr
from mpirecon.parallel.select import median
from mpirecon.robust.known_rules import add_rule
from mpirecon.robust.rules import Rule
from mpirecon.robust.selection import Selection
from mpirecon.solvers.kinds import SolverKind, add_solver
from mpirecon.solvers.normal import NormalSolver

sys.path.insert(0, str(Path(__file__).resolve().parent))
from on_ranks import said_on_ranks  # noqa: E402

comm = mr.world()
particles = mr.open(sys.argv[1])
FAST = {"iterations": 1, "folds": 2, "solve_iterations": 0, "comm": comm}


class Fair(Rule):
    """All alike, by calls of the communicator of every kind."""

    name = "fair"

    def decide(self, case):
        self.decides(case)
        weight, at = case.comm, len(case.valid)
        assert weight.allgather(at) == [weight.bcast(n, 0) for n in weight.allgather(at)]
        median(case.comm, case.statistics.residual[case.valid])
        total = weight.allreduce_scalar(at)
        assert len(weight.allgather_slabs(np.zeros(at), total)) == total
        whole = weight.gather_slabs(np.ones(at), total)
        assert whole is None or whole.sum() == total
        assert weight.reduce_scatter(np.ones(total)).sum() > 0
        assert (weight.reduce(np.ones(3)) is None) == (weight.rank > 0)
        assert weight.bcast_array(np.full(2, weight.rank)).sum() == 0
        weight.barrier()
        return Selection(self.weights(case), case.valid, case.statistics.residual)

    def decides(self, case):
        """What may fail."""

    def weights(self, case):
        """All alike."""
        return np.ones(len(case.valid))

    def value(self, comm, d, selection, valid, given):
        return comm.allreduce_scalar(float(d.sum()))


class Raises(Fair):
    """Fails before the others are through."""

    name = "raises"

    def decides(self, case):
        if comm.rank == 1:
            raise ValueError("of this rule's")


class Nan(Fair):
    """Returns no number on one rank."""

    name = "nan"

    def weights(self, case):
        return np.ones(len(case.valid)) * (np.nan if comm.rank == 1 else 1)


class Worthless(Fair):
    """Fails as its value is asked for."""

    name = "worthless"

    def value(self, comm, d, selection, valid, given):
        if comm.rank == 1:
            raise mr.UserError("no value")
        return comm.allreduce_scalar(float(d.sum()))


class None_(Fair):
    """Has no value on one rank."""

    name = "none"

    def value(self, comm, d, selection, valid, given):
        return None if comm.rank == 1 else 1.0


class Unequal(Fair):
    """Calls the communicator on one rank alone."""

    name = "unequal"

    def value(self, comm, d, selection, valid, given):
        return 1.0 if comm.rank == 1 else comm.allreduce_scalar(1.0)


if len(sys.argv) > 2:  # decided by messages between the ranks
    from mpirecon.robust import jointly

    jointly.FEW = 0
for rule in (Fair(), Raises(), Nan(), Worthless(), None_(), Unequal()):
    add_rule(rule)
power = 2 + comm.rank
mr.losses.register("steep", lambda d: 1 / (1 + d**power))
mr.distances.register(mr.distances.Distance("scaled", True, lambda s, sigma, typical: power * s.residual, None))
add_solver(SolverKind("mine", lambda engine, config: NormalSolver(engine, config) if power else None))
nearest = {"loss": "sorted", "keep": 0.7}
cases = {
    "raises": ({"loss": "raises"}, ("rank 1 on host", "of this rule's")),
    "nan": ({"loss": "nan"}, "for weight, returned nan"),
    "worthless": ({"loss": "worthless"}, "no value"),
    "none": ({"loss": "none"}, "value returned None; expected one finite number"),
    "unequal": ({"loss": "unequal"}, "some ranks call the communicator when others no longer do"),
    "two losses": ({"loss": "steep"}, "loss is another definition of steep on rank 0 than on rank 1"),
    "two distances": ({"distance": "scaled", **nearest}, "distance is another definition of scaled on rank 0 than"),
    "two solvers": ({"solver": "mine"}, "solver is another definition of mine on rank 0 than on rank 1"),
}  # fmt: skip
for name, (options, words) in cases.items():
    seen = said_on_ranks(comm, lambda options=options: mr.reconstruct(particles, **options, **FAST))
    wanted = (words,) * 2 if isinstance(words, str) else words
    assert all(word in text for word, text in zip(wanted, seen)), (name, seen)
assert mr.reconstruct(particles, loss="fair", **FAST).kept.all()
if comm.rank == 0:
    print("every rule ended on all ranks")
