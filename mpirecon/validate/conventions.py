"""What shifts, rotations and images may be other than what they were taken for, and what the images say of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mpirecon.io.reading import SHIFT_AXES
from mpirecon.model.pose import Pose

if TYPE_CHECKING:
    from mpirecon.validate.shift_parts import OfPart

#: relative difference of two lengths that are one
_SAME_LENGTH = 0.01

_OTHER_AXES = {
    "-x,-y": "with the other sign",
    "y,x": "with x and y exchanged",
    "x,-y": "with the other sign of y",
    "-x,y": "with the other sign of x",
    "-y,-x": "with x and y exchanged and the other sign",
    "y,-x": "with x and y exchanged and the other sign of y",
    "-y,x": "with x and y exchanged and the other sign of x",
}

#: what images may be; turned by 180 degrees they are those of the mirrored map, with the other sign of the shifts
_TURNED = {
    "y,x": "with rows and columns exchanged",
    "x,-y": "upside down",
    "-x,y": "mirrored left to right",
    "-y,-x": "turned by 180 degrees with rows and columns exchanged",
    "y,-x": "turned by 90 degrees",
    "-y,x": "turned by -90 degrees",
}

#: words → what makes Rot, Tilt, Psi [radians] of the angles as they were taken. Others are the same but for a turn of
#: the map, or its hand, which no image tells:
#: ZXZ angles have a Psi that differs by 90 degrees, Tilt of the other sign is the other hand
_ANGLES: dict[str, Callable[..., tuple]] = {
    "that are the inverse ones": lambda rot, tilt, psi: (-psi, -tilt, -rot),
    "with Rot and Psi exchanged": lambda rot, tilt, psi: (psi, tilt, rot),
    "with the other sign of Rot": lambda rot, tilt, psi: (-rot, tilt, psi),
    "with the other sign of Psi": lambda rot, tilt, psi: (rot, tilt, -psi),
    "with the other sign of Rot and Psi": lambda rot, tilt, psi: (-rot, tilt, -psi),
    "with a Psi that is 90 degrees more or less": lambda rot, tilt, psi: (rot, tilt, psi + np.pi / 2),
    "with a Tilt that is counted from the equator": lambda rot, tilt, psi: (rot, np.pi / 2 - tilt, psi),
}


@dataclass(frozen=True)
class Convention:
    """What shifts may be other than what they were taken for:
    of which axes (SHIFT_AXES), and how many times as long; and in words.

    of : ``"shifts"``; ``"images"``, which have these axes beside those of their poses; or ``"angles"``, which are those
        of _ANGLES
    offset : pixels (x, y) that all shifts are to be moved by
    """

    axes: str
    factor: float
    words: str
    of: str = "shifts"
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def matrix(self) -> np.ndarray:
        return self.factor * SHIFT_AXES[self.axes]

    def rotations(self, given: Pose) -> np.ndarray:
        """(m, 3, 3) of poses as they were taken; of images in other axes the first two rows alone, (m, 2, 3)."""
        if self.of == "angles":
            return Pose.from_euler(*np.degrees(_ANGLES[self.words](*np.radians(given.euler().T)))).matrices()
        return np.einsum("ij,mjk->mik", self.matrix, given.matrices()[:, :2])


def conventions(pixel_size: float) -> list[Convention]:
    """The given one, and others, simple ones first."""
    lengths = {1.0: ""}
    for factor, words in (
        (pixel_size, "multiplied by the pixel size"),
        (1 / pixel_size, "divided by the pixel size"),
        (2.0, "twice as long"),
        (0.5, "half as long"),
    ):
        if min(abs(factor / other - 1) for other in lengths) > _SAME_LENGTH:
            lengths[factor] = words
    same = [Convention("x,y", factor, words or "as given") for factor, words in lengths.items()]
    zero = Convention("x,y", 0.0, "all 0")
    other = [
        Convention(axes, factor, ", ".join(filter(None, (said, words))))
        for factor, words in lengths.items()
        for axes, said in _OTHER_AXES.items()
    ]
    return [*same, zero, *other]


def moved(x: float, y: float) -> Convention:
    """Shifts that count from another pixel, as where images were cropped or centred otherwise."""
    return Convention("x,y", 1.0, f"moved by {x:g} pixels along x and {y:g} along y", offset=(x, y))


#: what is tried on all sets: images whose rows were counted from the other end, exchanged with their columns, or both,
#: and rotations of other angles
POSES = [
    *(Convention(axes, 1.0, _TURNED[axes], "images") for axes in ("x,-y", "y,x", "y,-x")),
    *(Convention("x,y", 1.0, words, "angles") for words in _ANGLES),
]


def turned_images() -> list[Convention]:
    """Images that were written in other axes than their poses have."""
    return [Convention(axes, 1.0, words, "images") for axes, words in _TURNED.items()]


@dataclass(frozen=True)
class ShiftEvidence:
    """How images agree with maps at shifts of several conventions, of which the given one is the first.

    particles : how many were compared
    finest : Å
    conventions : of them
    correlation : (conventions,), mean correlation of images with the other half's map
    sigmas : (conventions,), standard deviations by which each is better there than the given one
    may_be : numbers of those that must be looked at more closely
    predicted : number → fraction of the images' power that maps made so predict, where they were made
    certainty : number → standard deviations by which that is more than with the given one
    found : number of the one that is clearly better, None where none is
    part : of the particles whose shifts alone are contradicted, if there is one
    """

    particles: int
    finest: float
    conventions: list[Convention]
    correlation: np.ndarray
    sigmas: np.ndarray
    may_be: list[int]
    predicted: dict[int, float] | None = None
    certainty: dict[int, float] | None = None
    found: int | None = None
    part: OfPart | None = None

    @property
    def better(self) -> Convention | None:
        return None if self.found is None else self.conventions[self.found]

    def and_also(self, more: list[Convention]) -> ShiftEvidence:
        """With further conventions that may be, which shifts do not tell of."""
        numbers = range(len(self.conventions), len(self.conventions) + len(more))
        unknown = np.full(len(more), np.nan)
        return replace(
            self,
            conventions=[*self.conventions, *more],
            correlation=np.append(self.correlation, unknown),
            sigmas=np.append(self.sigmas, unknown),
            may_be=[*self.may_be, *numbers],
        )

    def sentence(self) -> str:
        """What is reported of the convention that was found."""
        given, other = self.predicted[0], self.predicted[self.found]
        more = f"{other / given:.3g} times as much of" if given > 0 else "some of"
        what, taken = {
            "shifts": ("shifts", "the given ones"),
            "images": ("poses", "the images as they are"),
            "angles": ("rotations", "the given ones"),
        }[self.better.of]
        other = f"the images {self.better.words}" if self.better.of == "images" else f"{what} {self.better.words}"
        return (
            f"the images contradict the {what} of the particles: of {self.particles} of them maps of either half were "
            f"made to {self.finest:.3g} Å, and with {other} they predict {more} the other half's images; with {taken}, "
            f"{100 * max(given, 0):.2g} % of their power ({self.certainty[self.found]:.0f} standard deviations)"
        )

    def as_dict(self) -> dict:
        predicted, certainty = self.predicted or {}, self.certainty or {}
        return {
            "particles": self.particles, "finest": self.finest,
            "better": None if self.better is None else self.better.words,
            "part": None if self.part is None else self.part.as_dict(),
            "compared": [{c.of: c.words, "correlation": _known(r), "sigmas": _known(s),
                          "predicted": predicted.get(number),
                          "predicted_sigmas": certainty.get(number)}
                         for number, (c, r, s) in enumerate(zip(self.conventions, self.correlation, self.sigmas))],
        }  # fmt: skip


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
