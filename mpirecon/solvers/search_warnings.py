"""Why poses are not searched, and what a user should be warned of after a search, from its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpirecon.search.acceptance import FEWEST
from mpirecon.search.searcher import FEWEST_SHELLS

if TYPE_CHECKING:
    from mpirecon.solvers.config import Config

#: why nothing is searched, where that is no reason to worry, or has a warning of its own
ALIKE = "correct and wrong particles could not be distinguished, and all are kept at their given poses"
NOBODY = "every particle is accepted at its given pose"


def cannot_search(finest: int, supported: float, kept: int) -> str | None:
    """Why no image can be compared with these maps; None where it can.
    finest : shell down to which the FSC is above `supported` · kept : number of particles"""
    if kept < FEWEST:
        return (f"{kept} particles are accepted at their given poses; {FEWEST} are needed to know what a right pose "
                "looks like")
    if finest < FEWEST_SHELLS:
        return (f"the half maps agree (FSC above {supported}) in {finest} shells; {FEWEST_SHELLS} are needed: what "
                "fits such maps best says nothing of poses")
    return None


#: how much smaller than that of kept particles that come back the fraction of found ones is where a limit of the search
#: is worth a look, and in standard deviations
_FEWER, _SURE = 0.15, 3.0


def warnings_of(facts: dict, config: Config) -> list[str]:
    """facts : of ``search`` in summary.json"""
    poses = config.poses
    if reason := facts.get("reason"):
        return [] if reason in (ALIKE, NOBODY) else [f"--poses {poses} searched nothing: {reason}"]
    if "control" not in facts:
        return []
    warnings, control, groups = [], facts["control"], facts.get("groups")
    if 2 * control["came_back"] < control["searched"]:
        warnings.append(
            f"of {control['searched']} kept particles that were searched blindly, {control['came_back']} came back to "
            "their own pose: most of what this search finds is chance, and few found poses are accepted. Better maps, "
            "a tighter --diameter or a smaller --search-offset may help"
        )
    elif (limits := _limits(config)) and _finds_fewer(facts):
        warnings.append(
            f"{facts['found']} of {facts['searched']} searched particles are accepted where they were found, while "
            f"{control['came_back']} of {control['searched']} kept ones came back: the others are junk, or {limits} "
            "does not hold for them, and then some of those that are accepted are wrong, too. Search without it"
        )
    if groups and not groups["accepted"]:
        warnings.append(
            f"none of {groups['searched']} groups that were searched is accepted where it was found: "
            f"{control['came_back']} of {control['searched']} kept ones came back to their own pose, and what was "
            "found of the searched is no better than what is found in decoys. They are rejected at their "
            "given poses, where they count by the weight that is left to them, as with --poses fixed"
        )
    return warnings


def _limits(config: Config) -> str:
    """The limits of the search that the user gave, which the control knows nothing of: it hides its particles within
    them."""
    given = (("--search-offset", config.search_offset), ("--search-sigma", config.search_sigma))
    return " or ".join(f"{option} {value:g}" for option, value in given if value is not None)


def _finds_fewer(facts: dict) -> bool:
    found, searched = facts["found"], facts["searched"]
    back, tried = facts["control"]["came_back"], facts["control"]["searched"]
    both = (found + back) / (searched + tried)
    spread = np.sqrt(both * (1 - both) * (1 / max(searched, 1) + 1 / max(tried, 1)))
    return back / max(tried, 1) - found / max(searched, 1) > max(_FEWER, _SURE * spread)
