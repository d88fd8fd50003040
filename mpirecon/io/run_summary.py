"""What readers of a run's summary.json rely on: which fields there must be, and what they are.

A summary of another version of mpirecon, or one that was edited, may lack some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.run_kinds import PATH

_TEXT, _NUMBER, _LIST, _OBJECT, _FLAG = "text", "a number", "a list", "an object", "true or false"
_TYPES = {_TEXT: str, _NUMBER: (int, float), _LIST: list, _OBJECT: dict, _FLAG: bool}
_NONE = " or null"

_COUNTED = {"particles": _OBJECT, "particles.file": _TEXT, "particles.count": _NUMBER, "particles.box": _NUMBER,
            "particles.pixel_size": _NUMBER}

#: a field, with dots to those of an object and [] for each of a list → what it is; of a reconstruction
_RECONSTRUCTION = {
    **_COUNTED, "particles.skipped": _LIST, "version": _TEXT, "started": _TEXT, "seconds": _NUMBER,
    "warnings": _LIST, "warnings[]": _TEXT, "configuration": _OBJECT, "configuration.loss": _TEXT, "ranks": _LIST,
    "iterations": _LIST, "iterations[]": _OBJECT, "kept": _NUMBER, "keep_estimate": _NUMBER + _NONE,
    "resolution_0143": _NUMBER + _NONE, "resolution_05": _NUMBER + _NONE, "nyquist": _NUMBER,
    "resolution_of": _OBJECT + _NONE, "resolution_of.curve": _TEXT, "resolution_of.mask": _TEXT,
    "resolution_of.corrected": _FLAG, "rule": _OBJECT + _NONE, "used": _OBJECT + _NONE, "weights": _OBJECT + _NONE,
    "detection": _OBJECT + _NONE, "postprocess": _OBJECT + _NONE,
}  # fmt: skip

#: of the steps of a path and of its random discards
_STEP = {"": _OBJECT, ".fraction": _NUMBER, ".particles": _NUMBER, ".fsc": _LIST, ".fsc[]": _NUMBER + _NONE,
         ".mean_fsc": _NUMBER, ".resolution_0143": _NUMBER + _NONE, ".resolution_fitted": _NUMBER + _NONE,
         ".fsc_to_all": _NUMBER + _NONE, ".area_ratio": _NUMBER + _NONE}

_PATH = {
    **_COUNTED, "version": _TEXT, "started": _TEXT, "seconds": _NUMBER, "warnings": _LIST, "warnings[]": _TEXT,
    "configuration": _OBJECT, "nyquist": _NUMBER,
    "verdict": _OBJECT, "verdict.best": _NUMBER, "verdict.sentence": _TEXT, "verdict.pays": _FLAG + _NONE,
    "steps": _LIST, "random": _LIST,
    **{f"{of}[]{name}": kind for of in ("steps", "random") for name, kind in _STEP.items()},
}  # fmt: skip

#: nothing needs to be there
ANY: tuple[str, ...] = ()

#: what a Result and a comparison of two runs need; a path
RESULT = ("particles", "configuration", "warnings", "iterations", "resolution_0143", "keep_estimate")
COMPARED = (*RESULT, "resolution_05", "nyquist", "kept", "version", "started", "seconds", "ranks", "resolution_of")
WALKED = ("particles", "verdict", "steps", "random", "warnings", "nyquist")

_MISSING = object()


def check_summary(path: Path, summary: Mapping, needs: Sequence[str] = ANY) -> None:
    """Raise UserError naming the file and the field where one of `needs` is not there,
    or one of those that are is not what it must be."""
    kinds = _PATH if summary.get("kind") == PATH.kind else _RECONSTRUCTION
    for name in needs:
        if name not in summary:
            raise _refusal(path, name, _MISSING, kinds.get(name, ""))
    for name, kind in kinds.items():
        if name.partition(".")[0].partition("[")[0] not in summary:
            continue
        deep = "." in name and name.partition(".")[0].partition("[")[0] not in needs  # read by those who need all of it
        for label, value in _values(summary, name):
            if (value is _MISSING and not deep) or not (value is _MISSING or _is(value, kind)):
                raise _refusal(path, label, value, kind)


def _values(summary: Mapping, name: str) -> Iterator[tuple[str, object]]:
    """(name, value) of all fields that a name stands for; _MISSING of one that its object lacks."""
    found = [("", summary)]
    for word in name.split("."):
        word, many = word.removesuffix("[]"), word.endswith("[]")
        found = [(f"{label}.{word}".lstrip("."), value.get(word, _MISSING))
                 for label, value in found if isinstance(value, dict)]
        if many:
            found = [(f"{label}[{number}]", one) for label, value in found if isinstance(value, list)
                     for number, one in enumerate(value)]
    yield from found


def _is(value, kind: str) -> bool:
    if value is None:
        return kind.endswith(_NONE)
    kind = kind.removesuffix(_NONE)
    return isinstance(value, _TYPES[kind]) and (kind == _FLAG or not isinstance(value, bool))


def _refusal(path: Path, name: str, value, kind: str) -> UserError:
    shown = "null" if value is None else repr(str(value)[:60])
    what = "is missing" if value is _MISSING else f"is {shown}, and should be {kind}"
    return UserError(f"{path}: {name} {what}; the run is of another version of mpirecon, or the file was damaged: run "
                     f"it again, or take the version that made it")
