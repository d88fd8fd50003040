"""What an import has to say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mpirecon.model.simulated_errors import in_words, others_in_words

_LISTED = 20  # skipped images that are named one by one without --verbose


@dataclass
class ImportReport:
    """What was written: counts (planted: wrong poses; kinds: particles with each kind of error),
    and sentences the user should read."""

    output: Path
    particles: int
    box: int
    pixel_size: float
    dtype: str
    halves: tuple[int, int]
    ctf_premultiplied: bool
    ctf_phase_flipped: bool
    planted: int | None
    kinds: dict[str, int]
    skipped: list[str]
    notes: list[str]
    warnings: list[str]

    def print(self, console, name: str | os.PathLike | None = None) -> None:
        """Print it; name : what was imported or written, the output if left out."""
        state = ", CTF-premultiplied" if self.ctf_premultiplied else ", phase-flipped" if self.ctf_phase_flipped else ""
        console.say(f"{name or self.output}: {self.particles} particles of {self.box} x {self.box} pixels, "
                    f"{self.pixel_size:g} Å/px, {self.dtype}, half sets of {self.halves[0]} and "
                    f"{self.halves[1]}{state}")
        if self.planted is not None:
            console.say(f"  simulated errors: {self.planted} wrong poses ({100 * self.planted / self.particles:.1f} %)"
                        f"{in_words(self.kinds, self.planted)}")
        if others := others_in_words(self.kinds):
            console.say(f"  simulated errors: {others}")
        for note in self.notes:
            console.say(f"  {note}")
        for warning in self.warnings:
            console.warn(warning)
        if self.skipped:
            console.warn(f"{len(self.skipped)} bad images were skipped:")
            listed = self.skipped if console.verbose else self.skipped[:_LISTED]
            for line in listed:
                console.warn(f"  {line}")
            if len(listed) < len(self.skipped):
                console.warn(f"  … and {len(self.skipped) - len(listed)} more (all with --verbose)")
