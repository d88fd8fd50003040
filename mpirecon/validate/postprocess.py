"""What is made of two half maps after a reconstruction: mask, corrected FSC, FSC in cones, B-factor, sharpened map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.validate.automask import AutoMask, mask_of_transform
from mpirecon.validate.directional import ConicalFSC, conical_fsc_of_transforms
from mpirecon.validate.fsc import crossing, filter_transform, fsc_of_transforms, masked_transform
from mpirecon.validate.guinier import Guinier, guinier_of_transform, sharpen_transform
from mpirecon.validate.masks import independent_share
from mpirecon.validate.randomised import RandomisedFSC, phase_randomised_fsc


@dataclass(frozen=True)
class Postprocessed:
    """Everything that follows from two half maps and a mask; with a `note` instead where no mask could be made.

    mask : (n, n, n) float32
    mask_text : where it comes from
    sharpened : (n, n, n) float32, unmasked
    """

    mask: np.ndarray | None
    mask_text: str
    auto: AutoMask | None = None
    fsc: RandomisedFSC | None = None
    cones: ConicalFSC | None = None
    guinier: Guinier | None = None
    sharpened: np.ndarray | None = None
    resolution: float | None = None
    note: str | None = None

    def curves(self) -> dict[str, np.ndarray]:
        """Columns for fsc.csv: in this mask, with random phases, and corrected."""
        if self.fsc is None:
            return {}
        return {"fsc_masked": self.fsc.masked, "fsc_randomised": self.fsc.randomised, "fsc_true": self.fsc.true}

    @property
    def randomised_at_resolution(self) -> float | None:
        """FSC of random phases in this mask where the FSC in it, not corrected, falls below 0.143;
        None where it is not known."""
        if self.fsc is None:
            return None
        box = 2 * (len(self.fsc.masked) - 1)
        masked = crossing(self.fsc.masked, 0.143, box, 1.0)
        return self.fsc.at(None if masked is None else box / masked)

    def as_dict(self, box: int, pixel_size: float) -> dict:
        """For summary.json."""
        if self.fsc is None:
            return {"mask": self.mask_text, "note": self.note}
        shell = self.fsc.shell
        return {
            "mask": self.mask_text,
            "automatic_mask": self.auto.as_dict() if self.auto else None,
            "randomised_from": box * pixel_size / shell if shell else None,
            "resolution_0143_masked": crossing(self.fsc.masked, 0.143, box, pixel_size),
            "randomised_at_resolution": self.randomised_at_resolution,
            "resolution_0143": self.resolution,
            "resolution_05": crossing(self.fsc.true, 0.5, box, pixel_size),
            "bfactor": self.guinier.bfactor,
            "guinier": self.guinier.as_dict(),
            "cones": self.cones.as_dict(),
            "note": self.note,
        }


def postprocess(
    half1: np.ndarray, half2: np.ndarray, pixel_size: float, *, unmasked: np.ndarray, resolution: float | None = None,
    mask: np.ndarray | None = None, mask_text: str = "", seed: int = 1, bfactor: float | None = None,
    lowpass: float | None = None, mtf: np.ndarray | None = None, transforms: tuple[np.ndarray, np.ndarray]
    | None = None,
) -> Postprocessed:
    """Phase-randomised FSC in a mask, FSC in cones, B-factor and sharpened map of two unmasked half maps.

    Parameters
    ----------
    half1, half2 : (n, n, n) float
    pixel_size : Å
    unmasked : (n // 2 + 1,) their FSC without a mask
    resolution : Å, as far as it is known, for the automatic mask; by default where `unmasked` falls below 0.143
    mask : (n, n, n), 0 … 1, called `mask_text`; by default one is made from the mean of the half maps
    bfactor : Å² to sharpen by, negative; by default the fitted one
    lowpass : Å where the sharpened map ends; by default where the corrected FSC falls below 0.143
    mtf : (n // 2 + 1,) the detector's transfer by shell, which B-factor and sharpened map are freed of
    transforms : the half maps' half transforms (n, n, n // 2 + 1), where they are there already; overwritten
    """
    box = half1.shape[0]
    plain = transforms or tuple(masked_transform(np.asarray(half, np.float32)) for half in (half1, half2))
    auto = None
    if mask is None:
        try:
            auto = mask_of_transform(_mean(*plain), pixel_size,
                                     resolution or crossing(unmasked, 0.143, box, pixel_size))
        except UserError as error:
            return Postprocessed(None, "none", note=str(error))
        mask, mask_text = auto.mask, str(auto)
    # in an order that needs the fewest transforms at a time
    masked = tuple(masked_transform(half, mask).astype(np.complex64, copy=False) for half in (half1, half2))
    in_mask = fsc_of_transforms(*masked, box)
    cones = conical_fsc_of_transforms(*masked, pixel_size, independent=independent_share(mask))
    seen = _mean(*masked, out=masked[0])
    del masked
    curves = phase_randomised_fsc(half1, half2, mask, seed=seed, unmasked=unmasked, masked=in_mask, transforms=plain)
    at = crossing(curves.true, 0.143, box, pixel_size)
    mean = _mean(*plain, out=plain[0])
    del plain
    if mtf is not None:
        volume = filter_transform(mean, 1 / mtf)
        mean, seen = masked_transform(volume), masked_transform(volume, mask)
    fit = guinier_of_transform(seen, pixel_size, curves.true, at)
    del seen
    sharpened = sharpen_transform(mean, pixel_size, curves.true, fit.bfactor if bfactor is None else bfactor,
                                  lowpass or at)
    return Postprocessed(mask, mask_text, auto, curves, cones, fit, sharpened, at)


def _mean(first: np.ndarray, second: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(first + second) / 2, into `out` if given."""
    out = np.add(first, second, out=out)
    out /= 2
    return out
