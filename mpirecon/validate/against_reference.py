"""A finished map against the map that its particles were refined against:
how alike they are, and of one contrast and one hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.model.arrays import Volume
from mpirecon.validate.fsc import crossing, filter_transform, fsc_of_transforms
from mpirecon.validate.grids import check_same_grid

#: a correlation below which maps are not of one particle in one orientation
_UNLIKE = 0.3

#: by how much the correlation of the mirrored map must be larger to be reported as the other hand
_HAND = 0.05

#: … and how large it must be
_MIRRORED = 0.5


@dataclass(frozen=True)
class AgainstReference:
    """A map beside a reference.

    file, path : the reference's name, and where it is
    correlation : of both in the mask, low-passed to the map's resolution, −1 … 1
    mirrored : the largest of the reference's mirror images
    fsc : (n // 2 + 1,) in the mask
    resolution_05, resolution_0143 : Å where that falls below, None where it never does
    warnings : sentences. All but `file`, `path` and `warnings` are None where the two cannot be compared.
    """

    file: str
    correlation: float | None = None
    mirrored: float | None = None
    fsc: np.ndarray | None = None
    resolution_05: float | None = None
    resolution_0143: float | None = None
    warnings: tuple[str, ...] = ()
    path: str = ""

    def as_dict(self) -> dict:
        """For summary.json; the curve is in fsc.csv."""
        return {name: list(value) if name == "warnings" else value for name,
                value in vars(self).items() if name != "fsc"}

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if self.correlation is None:
            return f"{self.file} could not be compared."
        to = "over all shells" if self.resolution_05 is None else f"down to {self.resolution_05:.2f} Å"
        return (f"The map and {self.file} agree {to} (FSC 0.5 in the mask); their correlation, low-passed to the map's "
                f"resolution, is {self.correlation:.3f}, with the mirrored reference "
                f"{self.mirrored:.3f}.").replace(" -", " −")


def compare_with_reference(
    volume: np.ndarray, pixel_size: float, reference: Volume, name: str, mask: np.ndarray, resolution: float | None
) -> AgainstReference:
    """How a map, (n, n, n), in voxels of `pixel_size` Å, fits the reference called `name`.

    resolution : Å of the map, as far as it is known; both are low-passed to it
    mask : (n, n, n), 0 … 1
    """
    box = len(volume)
    try:
        check_same_grid(reference, f"the reference {name}", Volume(volume, pixel_size), "the reconstruction")
    except UserError as error:
        return AgainstReference(name, warnings=(f"{error}. The map was not compared with it",))
    array = np.nan_to_num(np.asarray(reference.to_numpy(), np.float32))
    if not np.ptp(array) > 0:
        return AgainstReference(
            name, warnings=(f"the reference {name} is constant; the map was not compared with it",)
        )
    ours = fft.rfftn(volume * mask)
    curve = fsc_of_transforms(ours, fft.rfftn(array * mask), box)
    gain = np.ones(box // 2 + 1)
    if resolution is not None:
        gain[int(np.ceil(box * pixel_size / resolution)) + 1 :] = 0
    gain[0] = 0  # the mean is the background's
    low = filter_transform(ours, gain)
    correlation, *mirrored = (_correlation(low, filter_transform(fft.rfftn(other * mask), gain))
                              for other in (array, *_mirrored(array)))
    mirror = max(mirrored, key=abs)
    return AgainstReference(
        name, correlation, mirror, curve, crossing(curve, 0.5, box, pixel_size),
        crossing(curve, 0.143, box, pixel_size),
        tuple(_doubts(name, correlation, mirror)),
    )  # fmt: skip


def _doubts(name: str, correlation: float, mirror: float) -> list[str]:
    """What a user should look into."""
    if abs(mirror) > abs(correlation) + _HAND and abs(mirror) >= _MIRRORED:
        texts = [f"the reference {name} fits the map better when it is mirrored (correlation {mirror:.2f}, as it is "
                f"{correlation:.2f}): its hand was inverted after the refinement, or it is not the map that these "
                "particles were refined against"]
    elif abs(correlation) < _UNLIKE:
        return [f"the reference {name} and the map are not alike (correlation {correlation:.2f}): is it the map that "
                "these particles were refined against, in the same orientation and of the same symmetry setting?"]
    else:
        texts = []
    if (mirror if texts else correlation) < 0:
        texts.append(f"the reference {name} has the opposite contrast: where the map is bright it is dark. Particles "
                    "must be bright (protein white); --contrast says otherwise")
    return [text.replace(" -", " −") for text in texts]


def _mirrored(array: np.ndarray) -> list[np.ndarray]:
    """The map mirrored at each plane through the origin voxel n // 2, and inverted there: which of them a program makes
    differs by a rotation."""
    def flipped(*axes: int) -> np.ndarray:
        made = np.flip(array, axes)
        return np.roll(made, 1, axes) if len(array) % 2 == 0 else made

    return [flipped(0), flipped(1), flipped(2), flipped(0, 1, 2)]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    norm = np.sqrt(np.square(a, dtype=np.float64).sum() * np.square(b, dtype=np.float64).sum())
    return float((a.astype(np.float64) * b).sum() / norm) if norm > 0 else 0.0
