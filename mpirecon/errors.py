"""Errors that a user can mend. The command line prints their text, never a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

#: how CUDA's libraries say that a GPU's memory, or what the system pins for it, does not suffice
OUT_OF_GPU_MEMORY = ("CUFFT_ALLOC_FAILED", "cudaErrorMemoryAllocation")

#: options of the command line that are parameters of another name, or value, in Python
_RENAMED = {
    "orientation-error-rate": "error_rate", "orientation-error": "error_degrees", "map-stack": "mapping",
    "unit": "units", "score-band": "score_resolution", "second-map": "second", "ctf-premultiply": "ctf_premultiplied",
    "ctf-phase-flip": "ctf_phase_flipped", "no-postprocess": "postprocess=False", "no-null": "null=False",
    "no-ctf": "use_ctf=False", "no-filter": "filtered=False", "no-ctf-premultiplied": "ctf_premultiplied=False",
    "no-ctf-phase-flipped": "ctf_phase_flipped=False", "verbose": "verbose=2", "controls": "controls=True",
    **{name: f"{name.replace('-', '_')}=True" for name in (
        "overwrite", "resume", "link", "skip-bad", "new-halves", "deterministic", "half-precision", "half-map-scores",
        "particle-scores", "ignore-aberrations", "scale-defocus", "ctf-premultiplied", "ctf-phase-flipped",
        "phase-randomise", "filtered")},
}  # fmt: skip

#: those that are parameters of the same name
_SAME = frozenset("""
amplitude-contrast astigmatism background backend batch-size bfactor bfactor-sign box checkpoint-every cones
checkpoint-signal contrast coordinates cs cs-aberrations data-dir defocus defocus-error defocus-error-kind
defocus-error-rate diameter discarded distance dtype duplicate-rate error-by error-rate extend family first folds grace
group-by halves high-pass inverted-hand-rate iterations junk-rate keep level log-particles loss lowpass mask max-bad
max-resolution memory micrographs momentum mtf neighbour-rate noise-colour noise-cv normalise offset-error
offset-error-rate padding particles particles1 particles2 passthrough phase-shift pixel-size poses preferred-angle
preferred-views random-draws reference rescale scale-cv schedule search-offset search-sigma second-fraction seed select
shift-axes shift-sigma size snr solve-iterations solver sort-scope space stack stall-timeout star start-weights step steps
symmetry threads threshold transport truth-map voltage weights
""".split())

#: parameter → its option, where that has another name
_OPTIONS = {parameter.partition("=")[0]: option for option, parameter in reversed(_RENAMED.items())}
_OPTIONS |= {name: option for option in _RENAMED if (name := option.replace("-", "_")) in _OPTIONS}

#: a command for a shell, to the end of its clause: its options are meant as they stand
_COMMAND = r"(?:mpirecon [a-z]|relion_\w|mpirun |srun |sbatch |pip )[^;,)\n]*"
#: options that are dicts in Python, with what is to be in them
_PAIR = r"--(unit|map-stack) ([\w-]+)=(-?\w+(?:\.\w+)?)"
_OPTION = re.compile(rf"({_COMMAND})| (?:for )?-o\b|(?<![\w-])(?:{_PAIR}|--rescale (common)|"
                     r"--([a-z][a-z0-9-]*)(?: (?=[A-Z\d]))?)")


class _Speech:
    """For whom messages are: whether options of the command line are what the reader has given."""

    commands = 0


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Messages name options of commands meanwhile, and parameters of Python's functions otherwise."""
    _Speech.commands += 1
    try:
        yield
    finally:
        _Speech.commands -= 1


def in_python(text: str) -> str:
    """A message with options of commands as the parameters that Python's functions have for them, and the values that
    follow them: ``--keep 0.7`` is ``keep=0.7``, ``--overwrite`` is ``overwrite=True``, ``--unit shift=A`` is
    ``units={'shift': 'A'}``."""

    def parameter(found: re.Match) -> str:
        whole, command, pair, common, name = found[0], found[1], found[2], found[5], found[6]
        if pair:
            return f"{_RENAMED[pair]}={{{found[3]!r}: {found[4]!r}}}"
        if common:
            return f"rescale={common!r}"
        if command or (name and name not in _RENAMED and name not in _SAME):
            return whole
        if not name:  # -o, of which the rest of the sentence says enough
            return ""
        given = _RENAMED.get(name, name.replace("-", "_"))
        return given + ("" if not whole.endswith(" ") else " " if "=" in given else "=")

    return _OPTION.sub(parameter, text).replace("the same command", "the same call")


def option_of(parameter: str) -> str:
    """The option of a parameter, from which ``in_python`` finds the parameter again."""
    return f"--{_OPTIONS.get(parameter, parameter.replace('_', '-'))}"


def spoken(text: str) -> str:
    """A message to whoever runs this: as it is to a user of the command line, and else as ``in_python``."""
    return text if _Speech.commands else in_python(text)


class UserError(Exception):
    """Something in the user's input, files or environment is wrong.

    The message says what was given, what was expected, in which file and row, and what to do.
    Every other exception is a defect of mpirecon and keeps its traceback.
    """

    def __str__(self) -> str:
        return spoken(super().__str__())
