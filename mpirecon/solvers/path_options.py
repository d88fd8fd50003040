"""What is asked of a path, and which options of a reconstruction its first run takes."""

from __future__ import annotations

from dataclasses import dataclass

from mpirecon.errors import UserError
from mpirecon.robust.known_rules import rule_of
from mpirecon.robust.nested import SCHEDULES, default_fractions


@dataclass(frozen=True)
class PathOptions:
    """What is asked of a path beside the Config of its first run.

    schedule : of robust.nested.SCHEDULES
    steps : fractions that are kept, from 1 down; None: those of the schedule that leave each half set enough particles
    random_draws : random discards of each size
    high_pass : (first, last) Å of a sieve
    null : also walk it on pure noise
    """

    schedule: str = "once"
    steps: tuple[float, ...] | None = None
    random_draws: int = 1
    high_pass: tuple[float, float] = (50.0, 3.0)
    null: bool = True

    @property
    def fractions(self) -> tuple[float, ...]:
        """Those that are asked for, from 1 down."""
        return self.steps or default_fractions(self.schedule)

    @property
    def rescores(self) -> bool:
        """Whether particles are scored at each step."""
        return self.schedule != "once"


#: options that choose the first run, which the schedules that score again do without
_OF_FIRST_RUN = {"loss": "--loss", "keep": "--keep", "iterations": "--iterations", "group_by": "--group-by"}

#: options of reconstruct that a path leaves no choice of, and why
_ONLY = {
    "solver": ("normal", "the steps of a path are solved by their normal equations"),
    "space": ("fourier", "a path is made in Fourier space"),
    "sort_scope": ("global", "a path sorts all particles of all ranks"),
    "poses": ("fixed", "the steps of a path are made at the given poses. Find others with reconstruct first, and take "
              "the path of what export writes of that run"),
}


def checked_options(
    schedule: str, steps: tuple[float, ...] | None, random_draws: int, high_pass: tuple[float, float] | None, null: bool
) -> PathOptions:
    """The options of a path; UserError where they do not go together."""
    if random_draws < 1:
        raise UserError(f"--random-draws {random_draws}: at least 1 is needed, to see what chance does")
    if high_pass is None:
        return PathOptions(schedule, steps, random_draws, null=null)
    if schedule != "sieve":
        raise UserError("--high-pass applies to --schedule sieve")
    if not 0 < high_pass[1] < high_pass[0]:
        raise UserError(f"--high-pass {high_pass[0]:g}:{high_pass[1]:g}: expected the coarser resolution first, e.g. "
                        f"50:3")
    return PathOptions(schedule, steps, random_draws, tuple(map(float, high_pass)), null)


def first_run(schedule: str, **options) -> dict:
    """Options of reconstruct as the first run of a path takes them: by default the posterior;
    all alike where particles are scored again.

    Raises
    ------
    UserError
        for a schedule that does not exist, for options that a schedule does without, and for a single fold, where
        particles would be scored by maps that they built.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"--schedule {schedule}: choose one of {', '.join(SCHEDULES)}")
    if options.get("folds") == 1:
        raise UserError("--folds 1: particles would be scored against maps that they built, and the best-scored would "
                        "be those that did so most; a path needs 2 folds or more")
    for name, (wanted, why) in _ONLY.items():
        if options.get(name, wanted) != wanted:
            raise UserError(f"--{name.replace('_', '-')} {options[name]}: {why}; leave it out")
    if schedule != "once":
        given = [option for name, option in _OF_FIRST_RUN.items() if options.get(name) is not None]
        if given:
            raise UserError(f"{given[0]} is of a first run, and --schedule {schedule} has none: particles are scored "
                            "again at each step; use --schedule once, or leave it out")
    loss = options.get("loss") or ("posterior" if schedule == "once" else "l2")
    if not isinstance(loss, str) or rule_of(loss).scores:
        return {**options, "loss": loss}
    if options.get("keep") is not None:
        raise UserError(f"--keep applies to losses that select; --loss {loss} counts all particles alike")
    # all particles alike, but in folds, as l2 does not need them to be
    return {**options, "loss": "sorted", "keep": 1.0, "iterations": options.get("iterations") or 1}
