"""The model's constants from runs that were measured, which tell some of them better than others.

Known constants are scaled phase by phase to this machine, and then moved as far as the runs show that they should be:
least squares of the relative error, never negative, drawn to the scaled ones where runs do not tell terms apart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import scipy

from mpirecon.batch.forecast import memory_parts, memory_per_rank, seconds_by_phase, work
from mpirecon.batch.trials import Measured, Trial

#: how strongly constants are drawn to the known ones: a change by all of one counts as this relative error of a run
_DRAWN = 0.1

#: share of a run's time under which the error of a phase counts as if it were this
_SMALL = 0.1

#: phases that threads share
_SHARED = ("prepare", "accumulate", "statistics", "survey")

#: digits of a constant
_DIGITS = 4


def fitted(found: Sequence[Measured], known: dict, drawn: float = _DRAWN) -> dict:
    """A model as ``model.json`` holds one, from `known` and what was measured.

    drawn : how strongly to hold to the known constants
    """
    model = copy.deepcopy(known)
    single = [run for run in found if run.trial.threads == 1]
    for phase, constants in known["seconds"].items():
        model["seconds"][phase] = _fit_phase(single, phase, np.array(constants), model, drawn)
    model["threads"] = _fit_threads(found, model)
    model["memory"] |= _fit_memory(found, known)
    return model


def predicted(trial: Trial, model: dict) -> tuple[float, float]:
    """Wall seconds and bytes of the largest rank."""
    task = trial.task()
    return (sum(seconds_by_phase(task, trial.ranks, threads=trial.threads, known=model).values()),
            memory_per_rank(task, trial.ranks, trial.threads, model))


def seconds_of(run: Measured, phase: str, known: dict) -> float:
    """Of a phase of the model; "rest" is what is in no other: start, reports, files."""
    if phase == "rest":
        return max(0.0, run.wall - sum(run.phases.get(other, 0.0) for other in known["seconds"]))
    return run.phases.get(phase, 0.0)


def _fit_phase(found: Sequence[Measured], phase: str, known: np.ndarray, model: dict, drawn: float) -> list[float]:
    rows = [(run, amounts) for run in found if any(amounts := _amounts(run, phase, model))]
    if not rows:
        return known.tolist()
    amounts = np.array([amounts for _, amounts in rows])
    times = np.array([seconds_of(run, phase, model) for run, _ in rows])
    weight = 1 / np.maximum(times, _SMALL * np.array([run.wall for run, _ in rows]))
    before = amounts @ known
    scale = 1.0
    if (before > 0).any():  # of all constants alike
        scale = float(np.sum(weight**2 * before * times) / np.sum((weight * before) ** 2))
    target = known * scale
    size = np.where(target > 0, target, np.inf)
    # a term that is not known to count is held to nothing, by what it would take to explain all
    size = np.where(np.isfinite(size), size, times.mean() / np.maximum(amounts.mean(axis=0), 1e-300))
    tried = amounts.max(axis=0) > 0  # what no run has done is scaled as all others
    system = np.vstack([weight[:, None] * amounts * size, drawn * np.eye(len(known))])
    solution, _ = scipy.optimize.nnls(system, np.concatenate([weight * times, drawn * (target > 0)]))
    return [float(f"{value:.{_DIGITS}g}") for value in np.where(tried, solution * size, target)]


def _amounts(run: Measured, phase: str, model: dict) -> tuple[float, ...]:
    """Of the phase's terms in a run; none where it has no such phase."""
    return work(run.trial.task(), run.trial.ranks, run.trial.threads, model).get(phase, ())


def _fit_threads(found: Sequence[Measured], model: dict) -> float:
    """What a further thread adds to the speed of the work on particles, as a share of one core: that by which their
    runs of several threads are predicted best."""
    several = [run for run in found if run.trial.threads > 1]
    if not several:
        return model["threads"]

    def error(gain: float) -> float:
        ratios = []
        for run in several:
            known = {**model, "threads": gain}
            phases = seconds_by_phase(run.trial.task(), run.trial.ranks, threads=run.trial.threads, known=known)
            times = [sum(some.get(phase, 0.0) for phase in _SHARED) for some in (phases, run.phases)]
            ratios.append(times[0] / max(times[1], 1e-9) - 1)
        return float(np.square(ratios).sum())

    return round(float(scipy.optimize.minimize_scalar(error, bounds=(0, 1), method="bounded").x), 3)


def _fit_memory(found: Sequence[Measured], known: dict) -> dict:
    """Bytes of the program, and of MPI in it; arrays are counted, not fitted."""
    known = known["memory"]

    def mean(runs: list[Measured], beside: float, usual: float) -> float:
        """Of what runs took beside that and what is counted, by relative errors."""
        if not runs:
            return usual
        left = [run.memory - _counted(run, {"memory": known}) - beside for run in runs]
        return max(0.0, float(np.average(left, weights=[run.memory**-2 for run in runs])))

    program = mean([run for run in found if run.trial.ranks == 1], 0.0, known["program"])
    mpi = mean([run for run in found if run.trial.ranks > 1], program, known["mpi"])
    return {"program": round(program), "mpi": round(mpi)}


def _counted(run: Measured, known: dict) -> float:
    parts = memory_parts(run.trial.task(), run.trial.ranks, run.trial.threads, known)
    return sum(amount for name, amount in parts.items() if name != "program")
