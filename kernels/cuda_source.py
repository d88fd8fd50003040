"""The text of the .cu files as a compiler takes it:
settings, tap table and parameter lists in front, includes put in, lines still numbered.

No GPU and no CuPy are needed to put it together; mpirecon.backend.gpu compiles it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from mpirecon.kernels.arguments import Kernel
from mpirecon.kernels.gridding import DEGREE, MARGIN, kernel_table
from mpirecon.kernels.tables import KERNELS

#: files in this folder that hold kernels
SOURCES = ("project", "backproject", "statistics", "nearby", "ctf", "translate", "fold", "radial", "rotate",
           "line_integrals")

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Settings:
    """What is fixed when kernels are compiled.

    taps, padding : of the interpolation kernel, and for which padded grid
    lanes : threads that share a sample
    threads : of a block, a multiple of 32
    bands : of a statistics pass.
    """

    taps: int = 4
    lanes: int = 1
    threads: int = 256
    bands: int = 6
    padding: float = 2.0

    def __post_init__(self) -> None:
        if self.taps not in DEGREE:
            raise ValueError(f"taps must be one of {list(DEGREE)}, got {self.taps}")
        if self.lanes not in (1, 2, 4) or self.lanes - self.taps > 1:
            raise ValueError(f"lanes must be 1, 2 or 4 and hardly more than the {self.taps} taps, got {self.lanes}")
        if self.threads % 32 or not 32 <= self.threads <= 1024 or self.threads < self.bands:
            raise ValueError(f"threads must be a multiple of 32 up to 1024 and at least the bands, got {self.threads}")


def cuda_source(settings: Settings = Settings()) -> str:
    """All kernels in one text, ready to be compiled; ``#line`` lets an error name the file it is in."""
    return _source_of(settings, tuple(KERNELS.values()))


@lru_cache(maxsize=None)
def _source_of(settings: Settings, kernels: tuple[Kernel, ...]) -> str:
    seen: set[str] = set()
    files_here = "".join(_with_includes(f"{name}.cu", seen) for name in SOURCES)
    added = "".join(f'#line 1 "{kernel.name}"\n{kernel.source}\n' for kernel in kernels if kernel.source)
    return _prologue(settings, kernels) + files_here + added


def _prologue(s: Settings, kernels: tuple[Kernel, ...]) -> str:
    table = kernel_table(s.taps, s.padding)
    filled = np.vstack([table, np.zeros((-s.taps % s.lanes, table.shape[1]), table.dtype)])
    rows = ", ".join("{" + ", ".join(f"{value:.9e}f" for value in row) + "}" for row in filled)
    return (
        f"#define TAPS {s.taps}\n#define DEGREE {DEGREE[s.taps]}\n#define MARGIN {MARGIN}\n#define LANES {s.lanes}\n"
        f"#define THREADS {s.threads}\n#define BANDS {s.bands}\n"
        f"__constant__ const float TABLE[{len(filled)}][DEGREE + 1] = {{{rows}}};\n"
    ) + "".join(f"#define ARGUMENTS_{kernel.name} {kernel.parameters}\n" for kernel in kernels)


def _with_includes(name: str, seen: set[str]) -> str:
    """The file's text with each ``#include "…"`` of ours replaced by that file, once."""
    seen.add(name)
    text = files("mpirecon.kernels").joinpath(name).read_text(encoding="utf-8")
    pieces, last = [f'#line 1 "{name}"\n'], 0
    for found in _INCLUDE.finditer(text):
        line = text.count("\n", 0, found.end()) + 2
        pieces.append(text[last : found.start()])
        if found[1] not in seen:
            pieces.append(_with_includes(found[1], seen))
        pieces.append(f'\n#line {line} "{name}"')
        last = found.end()
    return "".join(pieces) + text[last:] + "\n"
