"""What became of each particle's pose in a run: `pose_state` in its particles.h5."""

from __future__ import annotations

#: kept at the given pose; moved from there; found elsewhere; searched in vain; rejected and not searched
GIVEN, REFINED, FOUND, IN_VAIN, NOT_SEARCHED = range(5)

#: where the truth is known: degrees from it within which a wrong pose counts as recovered,
#: and beyond which an accepted one is wrong
FOUND_WITHIN, WRONG_BEYOND = 5.0, 10.0
