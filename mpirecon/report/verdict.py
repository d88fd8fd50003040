"""A finished run in a few sentences: what was reached, and what its reader should know before trusting it."""

from __future__ import annotations

from mpirecon.robust.known_rules import rule_of

#: below this probability of ranking an incorrect particle behind a correct one, sorting is close to chance
_POOR_AUC = 0.7

#: fraction of correct particles that may be rejected, and factor by which the final resolution may be worse than an
#: earlier one, without a caution
_RIGHT_LOST, _COARSER = 0.2, 1.1

#: B-factors, Å², that maps of proteins have; others are more likely due to the fit
_BFACTORS = (-400.0, 0.0)


def verdict(summary: dict) -> str:
    """One or two sentences: resolution, particles kept, simulated errors detected."""
    return " ".join([_resolution(summary), _particles(summary)])


def cautions(summary: dict) -> list[str]:
    """What may be wrong with the run or with reading it, one sentence or two each; often none."""
    texts = [_skipped(summary), _nyquist(summary), _raw(summary), _undetected(summary), _wrong_in_map(summary),
            _right_left_out(summary), _better_before(summary), bfactor_caution(summary)]
    return [*(text for text in texts if text), *(sentence(text) for text in summary.get("warnings") or [])]


def separable(summary: dict) -> bool:
    """Whether the run that ended so could distinguish correct particles from incorrect ones;
    of runs that did not try, too."""
    return (deciding_mixture(summary) or {}).get("separable", True)


def deciding_mixture(summary: dict) -> dict | None:
    """The mixture by which the final map's particles were chosen: of the last iteration;
    else the one fitted afterwards."""
    records = summary["iterations"]
    return (records[-1].get("mixture") if records else None) or summary.get("mixture")


def declared(summary: dict) -> dict:
    """What the run's loss declares (``Rule.declared``): as it was recorded, for scripts add losses of their own."""
    return summary.get("rule") or rule_of(summary["configuration"]["loss"]).declared()


def sentence(text: str) -> str:
    """A text with a capital letter at its beginning and a full stop at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def counted(summary: dict) -> int:
    """Particles that took part: all but those whose images were skipped, and those that were given no weight."""
    particles = summary["particles"]
    return particles["count"] - len(particles["skipped"]) - (summary.get("weights") or {}).get("zero", 0)


def percent(part: int, whole: int) -> str:
    """``12.3 %``; nothing of nothing is a dash."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def mask_in_words(summary: dict) -> str:
    """Which FSC and mask the quoted resolution is of."""
    about = summary.get("resolution_of")
    if not about:
        return "FSC 0.143, masked"
    mask = (
        "the automatic mask" if about["mask"].startswith("automatic") else about["mask"].split(" with a soft edge")[0]
    )
    mask = mask.replace(", the largest that the box holds,", "").replace("sphere of", "a sphere of")
    return f"FSC 0.143 in {mask}" + (", corrected" if about["corrected"] else "")


def _resolution(summary: dict) -> str:
    at, how = summary["resolution_0143"], mask_in_words(summary)
    if at is None:
        return f"The half maps agree up to Nyquist, {summary['nyquist']:.4g} Å ({how.replace('0.143', 'above 0.143')})."
    after = summary.get("postprocess") or {}
    corrected = after.get("resolution_0143")
    if corrected and not (summary.get("resolution_of") or {}).get("corrected"):
        return f"The half maps agree to {at:.2f} Å ({how}), or {corrected:.2f} Å in mask.mrc, corrected for the mask."
    return f"The half maps agree to {at:.2f} Å ({how})."


def _particles(summary: dict) -> str:
    total, kept, selects = counted(summary), summary["kept"], declared(summary)["selects"]
    verb, how = ("kept", "") if selects else ("used", f", {_how(summary)}")
    if not separable(summary):
        text = f"All {kept:,} particles were {verb}, because correct and incorrect ones are not separable"
    elif kept == total and not selects:
        text = f"All {total:,} particles were {verb}{how}"
    else:
        text = f"{kept:,} of {total:,} particles were {verb}{how}"
    found = summary.get("detection")
    if not found or not found["wrong"]:
        return text + "."
    among, wrong = found["wrong_among_kept"], found["wrong"]
    if not (selects or declared(summary)["mixture"]) or not separable(summary):
        return f"{text}; {wrong:,} of them ({percent(wrong, total)}) have a simulated error."
    lost = right_left_out(summary)
    rejected = f", and {lost:,} of {total - wrong:,} correct particles were rejected." if lost > 0 else "."
    if "at_found" in found:
        kept, again = found["kept"], found["at_found"]
        text += (f": {kept:,} at their given poses, {_share(among, kept)} with a simulated error, and {again:,} at "
                 "poses that were found")
        text += f", {_share(found['accepted_wrong'], again)} wrong" if again else ""
        return f"{text}; {wrong:,} particles have a simulated error{rejected}"
    return f"{text}, {_share(among, kept)} with a simulated error; {wrong:,} particles have one{rejected}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of them ({percent(part, whole)})" if part else "none of them"


def _how(summary: dict) -> str:
    """How the used particles are weighted."""
    rule, given = declared(summary), summary.get("weights")
    if given is None:
        return rule["how"]
    theirs = f"the weights of {given['source']}"
    return f"{rule['how']} and {theirs}" if rule["scores"] else f"with {theirs}"


def _skipped(summary: dict) -> str | None:
    skipped = summary["particles"]["skipped"]
    if not skipped:
        return None
    listed = ", ".join(f"{i}" for i in skipped[:12]) + (" …" if len(skipped) > 12 else "")
    one = len(skipped) == 1
    return (
        f"{len(skipped):,} {'image was' if one else 'images were'} skipped, with NaN or without contrast: "
        f"{'particle' if one else 'particles'} {listed}."
    )


def _nyquist(summary: dict) -> str | None:
    limit = summary["configuration"].get("max_resolution") or summary["nyquist"]
    at = summary["resolution_0143"]
    if at is not None and at > 1.03 * limit:
        return None
    what = "--max-resolution" if summary["configuration"].get("max_resolution") else "the pixel size"
    return f"The resolution is limited by {what} ({limit:g} Å), not by the data."


def _raw(summary: dict) -> str | None:
    if summary["configuration"]["distance"] != "raw" or not declared(summary)["scores"]:
        return None
    return "The distance is the raw residual, which sorts particles by their noise; --distance explained does not."


def _undetected(summary: dict) -> str | None:
    area = (summary.get("detection") or {}).get("auc")
    if area is None or area >= _POOR_AUC:
        return None
    return (
        "The distance hardly distinguishes simulated errors from correct particles: an incorrect one has the larger "
        f"distance in {100 * area:.0f} % of pairs (AUC {area:.3f})."
    )


def _wrong_in_map(summary: dict) -> str | None:
    found = summary.get("detection")
    if not found or declared(summary)["scores"] or not found["wrong"]:
        return None
    return ("L2 rejects no particle: those with simulated errors are in the map. Use --loss posterior, or --loss "
            "sorted --keep Q.")


def right_left_out(summary: dict) -> int:
    """How many particles without a simulated error were rejected, at given and found poses alike."""
    found = summary["detection"]
    again = sum(row.get("at_found", 0) for row in found.get("confusion") or () if row["kind"] == "right")
    return counted(summary) - found["wrong"] - (found["kept"] - found["wrong_among_kept"]) - again


def _right_left_out(summary: dict) -> str | None:
    found = summary.get("detection")
    if not found:
        return None
    lost, right = right_left_out(summary), counted(summary) - found["wrong"]
    if not lost > _RIGHT_LOST * right:
        return None
    return f"{lost:,} of {right:,} particles without a simulated error were rejected, too ({percent(lost, right)})."


def _better_before(summary: dict) -> str | None:
    """A run whose last iterations undid what earlier ones reached."""
    at = [record.get("resolution_0143") or summary["nyquist"] for record in summary["iterations"]]
    if len(at) < 2 or at[-1] <= _COARSER * min(at):
        return None
    best = min(range(len(at)), key=at.__getitem__)
    return (
        f"The half maps agreed to {at[best]:.2f} Å in iteration {summary['iterations'][best]['iteration']} and to "
        f"{at[-1]:.2f} Å in the last one: check the table of iterations before using the final map."
    )


def bfactor_caution(summary: dict) -> str | None:
    """A B-factor that no map of a protein has: sharpened.mrc rests on it."""
    fit = (summary.get("postprocess") or {}).get("guinier") or {}
    found = fit.get("bfactor")
    if found is None or _BFACTORS[0] <= found < _BFACTORS[1]:
        return None
    shown = f"{found:.0f}".replace("-", "−")
    return (
        f"A B-factor of {shown} Å² is outside the usual range for proteins (0 to −400 Å²). It was fitted from "
        f"{fit['used'][0]:.1f} to {fit['used'][1]:.1f} Å, and probably reflects the shape of the spectrum rather than "
        "its decay. Do not trust details of sharpened.mrc; mpirecon postprocess --bfactor sharpens by a given value."
    )
