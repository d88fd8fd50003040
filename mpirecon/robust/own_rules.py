"""Rules of one's own: what they decide is checked, and one that fails on a rank ends on all of them.

A rule is collective: a rank in which it raised would leave the others waiting in a call that it does not make. So each
call of the communicator that it is given begins with a word between the ranks of whether all of them make it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.robust.returned import checked_number, checked_numbers, read_only, refuse_bad, refuse_extreme
from mpirecon.robust.rules import Case, Rule
from mpirecon.robust.selection import Attenuation, Selection

T = TypeVar("T")

#: what a selection has of each particle beside its weight, and whether it must be finite
_COLUMNS = {"distance": False, "contrast": True, "contrast2": True, "posterior": False}


def decided(rule: Rule, case: Case) -> Selection:
    """What a rule of one's own decides; UserError, on all ranks, where it is no selection of the case's particles."""
    comm, valid = case.comm, case.valid
    found = watched(comm, rule.name, lambda watch: rule.decide(_readable(replace(case, comm=watch))))
    chosen = run_together(comm, lambda: _checked(rule, found, valid))
    total, kept = comm.allreduce(np.array([chosen.weight.sum(), float(chosen.kept.sum())]))
    if (count := comm.allreduce_scalar(int(valid.sum()))) and not (total > 0 and kept):
        did = "keeps none of" if total > 0 else "gave the weight 0 to all"
        raise UserError(f"{_named(rule)} {did} {count} particles; a map is made of those that it keeps, and weighs")
    if count:
        refuse_extreme(_named(rule), comm.allreduce_scalar(float(chosen.weight.max(initial=0)), "max"))
    return chosen


def _readable(case: Case) -> Case:
    """The case, whose arrays cannot be written into: the run goes on with them."""
    statistics = replace(case.statistics, sums=read_only(case.statistics.sums))
    return replace(case, statistics=statistics,
                   **{name: read_only(getattr(case, name)) for name in ("sigma", "ids", "valid", "credible")})


def value_of(rule: Rule, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray,
             given: np.ndarray) -> float:
    """The value of a rule of one's own; UserError, on all ranks, where it is no finite number."""
    d, valid, given = read_only(d), read_only(valid), read_only(given)
    value = watched(comm, rule.name, lambda watch: rule.value(watch, d, selection, valid, given))
    return run_together(comm, lambda: checked_number(f"loss {rule.name}: value", value))


def _named(rule: Rule) -> str:
    return f"loss {rule.name}: its rule's decide"


def _checked(rule: Rule, found, valid: np.ndarray) -> Selection:
    """The selection, of the valid alone; UserError where it is none."""
    what = _named(rule)
    if not isinstance(found, Selection):
        raise UserError(f"{what} returned {type(found).__name__}; expected a Selection")
    if not isinstance(found.attenuation, Attenuation | None):
        raise UserError(f"{what}: attenuation is {type(found.attenuation).__name__}; expected an Attenuation or None")
    weight = checked_numbers(f"{what}, for weight,", found.weight, valid.shape)
    refuse_bad(f"{what}, for weight,", weight, ~(np.isfinite(weight) & (weight >= 0)) & valid,
               "weights must be finite and not negative")
    kept = _flags(f"{what}, for kept,", found.kept, valid.shape)
    refuse_bad(f"{what}, for weight,", weight, kept & (weight == 0) & valid, "particles that are kept need a weight")
    columns = {name: checked_numbers(f"{what}, for {name},", getattr(found, name), valid.shape) for name in _COLUMNS}
    for name, finite in _COLUMNS.items():
        bad = ~np.isfinite(columns[name]) if finite else np.isnan(columns[name]) & (name == "distance")
        refuse_bad(f"{what}, for {name},", columns[name], bad & valid, "expected numbers of all particles")
    small = _flags(f"{what}, for small,", found.small, valid.shape)
    columns = {name: values.copy() for name, values in columns.items()}  # they may be what the case holds
    return replace(found, weight=np.where(valid, weight, 0.0), kept=kept & valid, small=small & valid, **columns)


def _flags(what: str, returned, expected: tuple[int, ...]) -> np.ndarray:
    flags = checked_numbers(what, returned, expected)
    refuse_bad(what, flags, (flags != 0) & (flags != 1), "expected True or False")
    return flags.astype(bool)


def watched(comm: Communicator, name: str, function: Callable[[Communicator], T]) -> T:
    """``function(communicator)``, which is collective; where it raises on one rank, or ranks do not make the same
    calls, all ranks raise."""
    if comm.size == 1:
        return function(comm)
    watch, result, failure = _Watched(comm, name), None, None
    try:
        result = function(watch)
    except Exception as error:
        failure = error
    if watch.ended is not None:  # all ranks know
        raise watch.ended
    watch.meet(False, failure)
    return result


class _Watched(Communicator):
    """A communicator whose ranks hear of each other before each call whether all make one.

    Attributes
    ----------
    ended : Exception or None
        what they ended with
    """

    def __init__(self, comm: Communicator, name: str) -> None:
        super().__init__(comm.message_bytes)
        self.rank, self.size, self.local_rank, self.hostname = comm.rank, comm.size, comm.local_rank, comm.hostname
        self.activity, self._comm, self._name = comm.activity, comm, name
        self.ended: Exception | None = None

    def meet(self, calls: bool, failure: Exception | None = None) -> None:
        """Wait for the others: this rank `calls` the communicator, has failed, or is through."""
        try:
            with together(self._comm):
                if failure is not None:
                    raise failure
            if self._comm.allreduce_scalar(int(calls), "max") != self._comm.allreduce_scalar(int(calls), "min"):
                raise UserError(f"loss {self._name}: some ranks call the communicator when others no longer do; its "
                                "rule must make the same calls on all ranks, whatever their particles")
        except Exception as error:
            self.ended = error
            raise

    def barrier(self) -> None:
        self.meet(True)
        self._comm.barrier()

    def bcast(self, obj, root: int = 0):
        self.meet(True)
        return self._comm.bcast(obj, root)

    def gather(self, obj, root: int = 0) -> list | None:
        self.meet(True)
        return self._comm.gather(obj, root)

    def allgather(self, obj) -> list:
        self.meet(True)
        return self._comm.allgather(obj)

    def abort(self, message: str, code: int = 1) -> None:
        self._comm.abort(message, code)

    def alert(self) -> None:
        self._comm.alert()

    def heed(self) -> None:
        self._comm.heed()

    def settle_alerts(self, senders: list[int]) -> None:
        self._comm.settle_alerts(senders)

    def _allreduce(self, part: np.ndarray, op: str) -> None:
        self.meet(True)
        self._comm.allreduce(part, op)

    def _reduce(self, part: np.ndarray, root: int) -> None:
        self.meet(True)
        self._comm.reduce(part, root)

    def _bcast(self, part: np.ndarray, root: int) -> None:
        self.meet(True)
        self._comm.bcast_array(part, root)

    def _reduce_scatter(self, send: np.ndarray, receive: np.ndarray, counts: list[int]) -> None:
        self.meet(True)
        first = sum(counts[: self.rank])
        receive[:] = self._comm.allreduce(send.copy())[first : first + counts[self.rank]]

    def _gather(self, send: np.ndarray, receive: np.ndarray | None, counts: list[int], root: int | None) -> None:
        self.meet(True)
        total = sum(counts)
        whole = (self._comm.allgather_slabs(send, total) if root is None
                 else self._comm.gather_slabs(send, total, root))  # fmt: skip
        if receive is not None:
            receive[:] = whole
