"""The interface of backends: kernels on prepared images, in the memory of one device.

Host arrays go in and host arrays come out; what lies in between (a batch, a reference, an accumulator) is the backend's
own business. A new backend is a subclass that defines the abstract methods, declares in ``can`` what else it does, and
passes tests/test_backends.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import ClassVar

import numpy as np

from mpirecon.backend.arrays import HOST, Arrays
from mpirecon.backend.bands import Bands
from mpirecon.backend.store import ImageMemory, Slab
from mpirecon.kernels.sphere import Packed
from mpirecon.kernels.statistics import PLAIN, PREMULTIPLIED_RAW, PREMULTIPLIED_WHITENED
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.equations import Equations
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.symmetry import Symmetry


class Ability(Enum):
    """What a backend may be able to do beyond the methods that all have."""

    #: look for better poses near the given ones: ``nearby``
    NEARBY = auto()
    #: compare particles with two maps at once: ``pair``, ``set_reference``
    PAIRS = auto()
    #: each image's power shell by shell, of images that are not premultiplied: ``image_shells``
    IMAGE_SHELLS = auto()
    #: sums that do not depend on their order: ``use_units``, ``largest``
    EXACT_SUMS = auto()
    #: kernels that Numba compiles, which one rank of a host can do for all
    COMPILED_BY_NUMBA = auto()


class Backend(ABC):
    """One box and pixel size on one device.

    Attributes
    ----------
    name : str
        ``"cpu"`` or ``"cuda"``
    can : frozenset of Ability
    plane : HalfPlane
        the Fourier samples of an image that are used
    projection : Projection
        the Fourier grid and its interpolation
    optics : OpticsPlanes or None
        aberrations and magnification of the optics groups
    pixel_size : float
        Å
    premultiplied : bool
        the images are multiplied by their CTF already
    reducer : Transport or None
        what sums this backend's accumulators over ranks where these live on a device; None: the communicator does
    arrays : Arrays
        where products of matrices are made, as a search of poses makes them
    reach : float or None
        grid points from zero frequency beyond which its folded accumulators, which are on the host, are zero; None:
        they may be anything anywhere
    """

    name: ClassVar[str]
    can: ClassVar[frozenset[Ability]] = frozenset()

    plane: HalfPlane
    projection: Projection
    optics: OpticsPlanes | None
    pixel_size: float
    premultiplied: bool
    reducer = None
    arrays: Arrays = HOST
    reach: float | None = None

    # images

    @abstractmethod
    def image_memory(self, slab: Slab) -> ImageMemory:
        """Room for prepared images of a slab, as much as there is; an ImageStore fills it, and gives batches of it."""

    def keeps_all(self, slab: Slab) -> bool:
        """Whether the images of all of a slab's particles will stay in host memory,
        where any order of visits is free."""
        return False

    @abstractmethod
    def prepare(self, images: np.ndarray, particles: ParticleSet, group: np.ndarray | None = None):
        """A batch of (b, n, n) float32 images and their metadata;
        group : (b,) int64 whose noise spectrum each has, all 0 if None."""

    def rotations(self, quaternion: np.ndarray, optics_group: np.ndarray) -> np.ndarray:
        """What kernels take for rotation matrices, (b, 3, 3) float64: their optics groups' magnification included."""
        matrices = matrix_from_quaternion(quaternion)
        return matrices if self.optics is None else self.optics.rotations(matrices, self.optics.rows(optics_group))

    @property
    def stretch(self) -> float:
        """The most that a magnification of optics groups lengthens a frequency, at least 1."""
        return 1.0 if self.optics is None else self.optics.aberrations.stretch

    @abstractmethod
    def turned(self, batch, matrix: np.ndarray):
        """The same images at poses R · matrixᵀ, those of a map turned by a (3, 3) rotation."""

    @abstractmethod
    def power(self, batch) -> np.ndarray:
        """Mean power of each image, (b,) float64, in the pixels' units."""

    def image_shells(self, batch) -> np.ndarray:
        """Power of each image in each shell, Fourier samples of the whole plane summed, (b, shells) float64;
        Ability.IMAGE_SHELLS."""
        raise self._unable(Ability.IMAGE_SHELLS)

    @abstractmethod
    def add_spectrum(self, batch, weight: np.ndarray, power: np.ndarray, count: np.ndarray) -> None:
        """Add the weighted batch to the noise spectrum's sums, (shells,) float64 each."""

    # statistics

    def bands(self, noise_power: np.ndarray, lowest: int, highest: int, whitened: bool) -> Bands:
        """Bands of the shells lowest … highest, for ``statistics``."""
        return Bands.of(self.plane, noise_power, lowest, highest, whitened)

    @abstractmethod
    def coarse_box(self, reach: int) -> int:
        """The box, at most the images', in which references that hold shells 0 … reach can be made."""

    @abstractmethod
    def reference(self, volume: np.ndarray):
        """What ``statistics`` projects from, of an (n, n, n) float32 map or one of a ``coarse_box``."""

    @abstractmethod
    def statistics(self, reference, batch, bands: Bands, rotation: np.ndarray | None = None) -> np.ndarray:
        """yy, yp, pp of each particle in each band, (b, bands, 3) float64; at other rotations (b, 3, 3) if given.

        Of a pair, (2, b, bands, 3).
        """

    def pair(self, box: int | None = None):
        """Room for two maps of a box, the images' or a ``coarse_box``, that ``statistics`` compares at the cost of
        little more than one; Ability.PAIRS."""
        raise self._unable(Ability.PAIRS)

    def set_reference(self, pair, which: int, volume: np.ndarray) -> None:
        """Make a map number `which` (0 or 1) of a pair; the other stays. Ability.PAIRS."""
        raise self._unable(Ability.PAIRS)

    def nearby(
        self, reference, batch, bands: Bands, highest: np.ndarray, precision: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The best pose near each particle's own; Ability.NEARBY. For shapes and meaning see ``kernels/nearby.py``.

        Parameters
        ----------
        highest : (steps,) int64
            highest band of each look
        precision : float
            of the prior about the own pose, 1/radian²

        Returns
        -------
        turn (b, 3), sums (b, bands, 2), slope (b, 3), curvature (b, 6) : float64
        """
        raise self._unable(Ability.NEARBY)

    def _mode(self, bands: Bands) -> int:
        """How the statistics' kernels multiply data and model."""
        if not self.premultiplied:
            return PLAIN
        return PREMULTIPLIED_WHITENED if bands.whitened else PREMULTIPLIED_RAW

    # normal equations

    @abstractmethod
    def accumulator(self, again=None):
        """Room for Σ w s C ŷ and Σ w s² C².

        again : another one, or what ``folded`` gave for it, needed no more: its memory may be used again
        """

    @abstractmethod
    def accumulate(self, accumulator, batch, weight: np.ndarray, contrast: np.ndarray, contrast2: np.ndarray) -> None:
        """Add Σ w s C ŷ and Σ w s² C² of the batch; particles of weight 0 are left out.

        Parameters
        ----------
        weight : (b,) float64
            w
        contrast, contrast2 : (b,) or (b, shells) float64
            the expected contrast E[s] and E[s²] of each particle, or of each of its shells where the signal of a
            particle is right at some frequencies only
        """

    @abstractmethod
    def folded(self, accumulator, room: Packed | None = None):
        """The accumulator on the half-complex grid, ready to be reduced, (p, p, p//2 + 1, 3) float32: on the device
        where ``reducer`` sums there, else on the host.

        room : sums that are needed no more, which a backend with a `reach` may overwrite and return instead; the
            accumulator is empty then, as a new one
        """

    def symmetrise(self, folded, symmetry: Symmetry) -> None:
        """Sum a folded accumulator over the rotations of a point group that need no images, in place."""
        symmetry.finish(folded)

    @abstractmethod
    def normal_equations(self, folded) -> Equations:
        """The normal equations of a reduced accumulator, or of its middle, which is a ``coarse_box``'s."""

    def join(self, transport) -> None:
        """Have accumulators summed over ranks by a transport, or by the communicator where it is None."""
        if transport is not None:
            raise TypeError(f"the accumulators of {type(self).__name__} are summed by the communicator")

    def use_units(self, fixed_point: FixedPoint | None) -> None:
        """Count whole numbers of these units in accumulators made from now on; Ability.EXACT_SUMS."""
        if fixed_point is not None:
            raise self._unable(Ability.EXACT_SUMS)

    def largest(self, batch) -> np.ndarray:
        """Upper bounds of C ŷ and of C² over the batch's samples, (2,) float64; Ability.EXACT_SUMS."""
        raise self._unable(Ability.EXACT_SUMS)

    def _unable(self, ability: Ability) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} cannot do {ability.name}; ask its `can` first")
