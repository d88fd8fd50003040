"""What a simulated particle set is made with, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from mpirecon.errors import UserError
from mpirecon.kinds import Range, checked_fields
from mpirecon.model.optics import CTF_BOUNDS
from mpirecon.model.simulated_errors import ErrorSettings

#: Å: a range of defocus that does not reach it is in µm
_LEAST_DEFOCUS = 100.0


@dataclass(frozen=True)
class SimulationSettings(ErrorSettings):
    """Settings of ``simulate``; each is checked here and named as its command-line option in errors. Those of
    ErrorSettings count too.

    Parameters
    ----------
    particles, seed : int
    snr : float
        signal variance over noise variance per pixel, averaged over the set; ``math.inf`` for no noise
    noise_cv, scale_cv : float
        coefficient of variation (spread over mean) of the noise level and of the contrast between particles
    junk_rate, error_rate : float, 0 … 1
        fraction of images without a particle; fraction of the others whose given orientation is wrong
    error_degrees : float or None
        standard deviation of small orientation errors, degrees; None for uniformly random orientations
    defocus : (low, high), Å (the command's option is in µm)
    astigmatism : float, Å
        standard deviation of defocus_u − defocus_v
    voltage : kV
    cs : mm · amplitude_contrast
    bfactor : Å²
    phase_shift : radians, at most π (the command's option is in degrees)
    shift_sigma : float, Å
        standard deviation of each shift component
    preferred_views : float, 0 … 1; preferred_angle : degrees
        fraction of the particles that are seen along the map's z axis, within this angle; the others from everywhere
    second_fraction : float, 0 … 1
        fraction of the particles that are of the second map
    noise_colour : float; micrographs : int
        the noise's amplitude rises towards low frequencies with an exponent between 0 and this,
        another for each micrograph
    neighbour_rate : float, 0 … 1
        fraction of images with a neighbour that reaches into the box
    background : float
        standard deviation of a level and of slopes (from the middle to the edge) under each image,
        over that of the noise
    use_ctf, ctf_premultiplied, ctf_phase_flipped : bool
    halves : ``"random"`` (a fair coin per particle) or ``"alternate"``
    dtype : ``"float32"`` or ``"float16"``

    Raises
    ------
    UserError
        naming the option, the value and the range it must lie in.
    """

    particles: int
    seed: int = 1
    snr: Annotated[float, Range(infinite=True)] = 0.1
    noise_cv: float = 0.0
    scale_cv: float = 0.0
    junk_rate: float = 0.0
    error_rate: float = 0.0
    error_degrees: float | None = None
    defocus: tuple[float, float] = (8_000.0, 25_000.0)
    astigmatism: float = 300.0
    voltage: float = 300.0
    cs: float = 2.7
    amplitude_contrast: float = 0.1
    bfactor: float = 0.0
    phase_shift: float = 0.0
    shift_sigma: float = 3.0
    preferred_views: float = 0.0
    preferred_angle: float = 20.0
    second_fraction: float = 0.0
    noise_colour: float = 0.0
    micrographs: int = 20
    neighbour_rate: float = 0.0
    background: float = 0.0
    use_ctf: bool = True
    ctf_premultiplied: bool = False
    ctf_phase_flipped: bool = False
    halves: str = "random"
    dtype: str = "float32"

    @property
    def orientation_errors(self) -> tuple[float, float | None]:
        return self.error_rate, self.error_degrees

    def __post_init__(self) -> None:
        vars(self).update(checked_fields(self))
        self._within("--particles", self.particles, 1, 2**40)
        self._within("--seed", self.seed, 0, 2**63)
        if self.snr <= 0:
            raise UserError(f"--snr is {self.snr:g}, expected a number above 0, or inf for no noise")
        self._within("--noise-cv", self.noise_cv, 0, 2)
        self._within("--scale-cv", self.scale_cv, 0, 2)
        self._within("--junk-rate", self.junk_rate, 0, 1)
        self.check_errors()
        self._within("--preferred-views", self.preferred_views, 0, 1)
        self._within("--preferred-angle", self.preferred_angle, 0, 180, "degrees")
        self._within("--second-fraction", self.second_fraction, 0, 1)
        self._within("--noise-colour", self.noise_colour, 0, 5)
        self._within("--micrographs", self.micrographs, 1, 2**31 - 1)
        self._within("--neighbour-rate", self.neighbour_rate, 0, 1)
        self._within("--background", self.background, 0, 1e4)
        if self.background and math.isinf(self.snr):
            raise UserError("--background is in standard deviations of the noise, and there is no noise with --snr "
                            "inf; give a finite --snr")
        self._within("--shift-sigma", self.shift_sigma, 0, 1e4)
        self._within("--astigmatism", self.astigmatism, 0, 1e5)
        for option, value, field in (
            ("--defocus", self.defocus[0], "defocus_u"),
            ("--defocus", self.defocus[1], "defocus_u"),
            ("--voltage", self.voltage, "voltage_kv"),
            ("--cs", self.cs, "cs_mm"),
            ("--amplitude-contrast", self.amplitude_contrast, "amplitude_contrast"),
            ("--bfactor", self.bfactor, "bfactor"),
            ("--phase-shift", self.phase_shift, "phase_shift"),
        ):
            low, high, unit = CTF_BOUNDS[field]
            self._within(option, value, low, high, unit)
        if self.defocus[0] > self.defocus[1]:
            low, high = self.defocus
            raise UserError(f"--defocus: the lower end {low:g} Å is above the upper end {high:g} Å")
        self._refuse_other_units()
        if self.junk_rate and math.isinf(self.snr):
            raise UserError("--junk-rate: junk is pure noise, and there is none with --snr inf; give a finite --snr")
        if self.defocus_error and not self.use_ctf:
            raise UserError("--defocus-error and --no-ctf exclude each other: there is no CTF whose defocus could be "
                            "wrong")
        if self.ctf_premultiplied and not self.use_ctf:
            raise UserError("--ctf-premultiply and --no-ctf exclude each other: there is no CTF to multiply by")
        if self.ctf_phase_flipped and (self.ctf_premultiplied or not self.use_ctf):
            other = "--ctf-premultiply" if self.ctf_premultiplied else "--no-ctf"
            raise UserError(f"--ctf-phase-flip and {other} exclude each other: no sign of the CTF is left to flip")
        for option, value, allowed in (
            ("--halves", self.halves, ("random", "alternate")),
            ("--dtype", self.dtype, ("float32", "float16")),
        ):
            if value not in allowed:
                raise UserError(f"{option} is {value!r}, expected {' or '.join(allowed)}")

    def _refuse_other_units(self) -> None:
        """Raise UserError for µm and degrees, in which the command's options are."""
        low, high = self.defocus
        if 0 < max(abs(low), abs(high)) < _LEAST_DEFOCUS:
            raise UserError(f"--defocus is {low:g} … {high:g} Å, which no microscope is set to; settings are in Å: "
                            "8000 … 25000 are the 0.8:2.5 µm of the command")
        if abs(self.phase_shift) > math.pi + 1e-9:
            degrees = math.degrees(self.phase_shift)
            raise UserError(f"--phase-shift is {degrees:g}° ({self.phase_shift:g} radians), more than half a turn; the "
                            "command takes it in degrees, a script in radians")

    @staticmethod
    def _within(option: str, value: float, low: float, high: float, unit: str = "") -> None:
        if not low <= value <= high:  # also refuses NaN
            unit = f" {unit}" if unit else ""
            raise UserError(f"{option} is {value:g}{unit}, expected {low:g} … {high:g}{unit}")
