"""Whether correct and incorrect particles of a run are separable,
and whether the kept fraction agrees with the estimate."""

from __future__ import annotations

from dataclasses import dataclass

from mpirecon.io.family import Family
from mpirecon.robust.pose_mixture import SMALLEST_SEPARATION

#: fewer independent particles than this make no interval of 95 % …
FEW_SCORED = 100

#: … and a kept fraction nearer than this to the estimated one does not contradict it
_ALIKE = 0.02


@dataclass(frozen=True)
class ScoredSelection:
    """Selection of the particles in a run whose loss scores them.

    particles, kept : those that took part, and those of them kept
    scored : independent ones among them, groups of rows counting once
    kept_fraction : of those
    decided : the mixture that chose the particles of the final map, None where none did
    last : the mixture fitted to the scores against the final map
    group_by : the column of the groups
    family : a column that could be one
    by_number : as many are kept as are estimated to be correct, not those that are probably correct
    kept_anywhere : where poses were searched, and all of the above is of given ones: the fraction of the particles that
        were kept at these or found ones
    """

    particles: int
    kept: int
    scored: int
    kept_fraction: float
    decided: dict | None
    last: dict | None
    unscored: bool = False
    group_by: str | None = None
    family: Family | None = None
    by_number: bool = False
    kept_anywhere: float | None = None

    def warnings(self) -> list[str]:
        """A sentence or two for what the reader must know before quoting a fraction or a selection."""
        if self.unscored:
            return ["no particle was scored: with a single iteration the map is made before any particle is scored, so "
                    "all particles count alike; use --iterations 2 or more"]
        if self.last is None or self.decided is None:
            return []
        if not self.decided["separable"]:
            return [self._not_separable()]
        return [text for text in (self._no_longer(), self._contradiction()) if text]

    def _not_separable(self) -> str:
        return (
            f"correct and incorrect particles are not separable ({self.decided['separation']:.1f} standard deviations; "
            f"{SMALLEST_SEPARATION:g} are required): all {self.kept:,} were kept, so this is the map of --loss l2. "
            f"{self._remedy()}"
        )

    def _remedy(self) -> str:
        others = ("a mask that fits the particle (--diameter, --mask), --score-band, or --loss sorted --keep Q if the "
                  "fraction of correct particles is known")
        if self.group_by:
            return f"Try {others}"
        if self.family:
            return (f"Try --group-by {self.family.column}, which scores the rows of each particle as a unit "
                    f"({self.family.count:,} particles of about {self.family.rows} rows). Alternatives: {others}")
        return f"Try {others}; for tilt images, --group-by with the column that identifies the particle"

    def _no_longer(self) -> str | None:
        if self.last["separable"]:
            return None
        return ("against the final map, correct and incorrect particles are no longer separable "
                f"({self.last['separation']:.1f} standard deviations; {SMALLEST_SEPARATION:g} are required): compare "
                "with --loss l2 before trusting the selection")

    def _contradiction(self) -> str | None:
        estimate, (low, high) = self.last["keep"], self.last["keep_interval"]
        kept = self.kept_fraction
        if low <= kept <= high or abs(kept - estimate) <= _ALIKE:
            return None
        what = "particles" if self.group_by is None else f"groups of {self.group_by}"
        where, which, elsewhere = "", "particles", ""
        if self.kept_anywhere is not None:
            where, which = " at their given poses", "given poses"
            elsewhere = f" (with those at found ones {100 * self.kept_anywhere:.1f} % of all particles)"
        probably = f"correct {which} were rejected" if kept < low else f"incorrect {which} were kept"
        return (
            f"{100 * kept:.1f} % of the {what} were kept{where}{elsewhere}, which is outside the interval of the "
            f"estimated fraction of correct ones, {100 * estimate:.1f} % ({100 * low:.1f}–{100 * high:.1f} %): "
            f"probably {probably}. {self._how(which)}, and the estimate is the mean probability against the final "
            "map. More --iterations may reduce the difference"
        )

    def _how(self, which: str) -> str:
        """By what they were kept."""
        if self.by_number:
            return "As many were kept as the estimate before the last iteration said"
        return f"The {which} were kept whose probability of being correct was 0.5 or more before the last iteration"


def interval_in_words(mixture: dict, scored: int | None) -> str:
    """The interval of the estimated fraction of correct particles, and its reliability.

    scored : independent particles that it is from, None where a run did not record it
    """
    low, high = mixture.get("keep_interval") or (None, None)
    if low is None:
        return "from the mixture"
    words = f"{100 * low:.1f}–{100 * high:.1f} %"
    return (f"95 %: {words}" if scored is None or scored >= FEW_SCORED
            else f"roughly {words}, from {scored} particles only")
