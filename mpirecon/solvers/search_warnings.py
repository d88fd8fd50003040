"""Why poses are not searched, and what a user should be warned of after a search, from its numbers."""

from __future__ import annotations

from mpirecon.search.acceptance import FEWEST
from mpirecon.search.searcher import FEWEST_SHELLS

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


def warnings_of(facts: dict, poses: str) -> list[str]:
    """facts : of ``search`` in summary.json · poses : value of the option"""
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
    if groups and not groups["accepted"]:
        warnings.append(
            f"none of {groups['searched']} groups that were searched is accepted where it was found: "
            f"{control['came_back']} of {control['searched']} kept ones came back to their own pose, and what was "
            "found of the searched is no better than what is found in decoys. They are left out, as with --poses fixed"
        )
    return warnings
