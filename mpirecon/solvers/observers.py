"""Observers of each iteration: the ranks' logs, the console. The iteration knows none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.held import give_back_unused, memory_held
from mpirecon.solvers.state import State

#: what the losses of an iteration mean, said once
_HOW_TO_READ = ("  losses: relative to an empty map, whose loss is 1; held out: each particle against maps made "
                "without it")


class Observer(Protocol):
    """Called on all ranks, in step."""

    def after(self, state: State) -> None:
        """An iteration has made this. What is raised here ends the run, on all ranks."""


class RankRecords:
    """The record of each iteration in the rank's log, and the memory that the rank holds then, of which what it has no
    more use for is given back; ends a run whose loss is no number any more."""

    def __init__(self, log) -> None:
        self._log = log

    def after(self, state: State) -> None:
        give_back_unused()
        self._log.event("iteration", **state.record, memory=memory_held())
        if not np.isfinite(state.record["loss_l2"]):
            raise UserError(f"the loss is not finite after iteration {state.iteration}: the steps were too long; try a "
                            "smaller --step or --momentum, or --solver normal")


class Announcer:
    """A line on the console for each iteration."""

    def __init__(self, console, rounds: int, records: Sequence[dict]) -> None:
        """rounds : iterations of the run · records : of those that were made before, where it is resumed"""
        self._console, self._rounds, self._explained = console, rounds, False
        self._searched = any("search" in record for record in records)

    def after(self, state: State) -> None:
        r = state.record
        text = (
            f"iteration {r['iteration']}/{self._rounds}: loss {r['loss']:.5f}, L2 over all {r['loss_l2']:.5f}, held "
            f"out {r['loss_heldout']:.5f}, kept {100 * r['kept_fraction']:.1f} %"
        )
        if "wrong" in r:
            what = "wrong at the pose used" if self._searched else "with simulated errors"
            text += f" ({100 * r['wrong_among_kept'] / max(r['kept'], 1):.1f} % of them {what})"
        resolution = r["resolution_0143"]
        self._console.say(text + (f", FSC 0.143 at {resolution:.2f} Å" if resolution else ", FSC above 0.143 "
                                  "throughout"))
        if "search" in r:
            self._searched = True  # the next map is made of found poses too
            self._console.say(f"  {_search_in_words(r['search'])}")
        if not self._explained:
            sample = ""
            if r["scored"] < r["valid"]:
                whole = r["losses_of"] == r["valid"]
                of = "these are of all particles; distances and scores are" if whole else "all are"
                sample = f"; {of} of {r['scored']:,}, drawn at random: --particle-scores compares each"
            self._console.say(_HOW_TO_READ + sample)
            self._explained = True


def _search_in_words(facts: dict) -> str:
    if reason := facts.get("reason"):
        return f"no poses searched: {reason}"
    control = facts.get("control")
    words = f"poses: {facts.get('searched', 0):,} searched, {facts.get('found', 0):,} of them accepted at a found one"
    return words + (f"; control: {control['came_back']} of {control['searched']} came back" if control else "")
