"""Point groups in RELION's settings: their rotations, and angles between poses that a group takes for the same.

V has the symmetry g when V(g r) = V(r). An image of pose R is then also one of pose R gᵀ, for every g of the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from mpirecon.errors import UserError

_GOLDEN = (1 + 5**0.5) / 2

#: group → its generators: (fold, axis (x, y, z))
_GENERATORS = {
    "T": ((3, (0, 0, 1)), (2, (0, 2**0.5, 1))),
    "O": ((3, (1, 1, 1)), (4, (0, 0, 1))),
    "I1": ((2, (1, 0, 0)), (5, (_GOLDEN, 0, -1))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN))),
    "I3": ((2, (-1, 0, _GOLDEN)), (5, (0, 0, 1))),
    "I4": ((2, (1, 0, _GOLDEN)), (5, (2, 0, 1))),
}

#: what may be asked for, for messages
KNOWN = "C1, C2, C3 …, D1, D2, D3 …, T, O, I (the same as I2), I1, I2, I3, I4"

#: a fold beyond this is a slip of the keyboard
_LARGEST_FOLD = 200


@dataclass(frozen=True)
class PointGroup:
    """name : in capitals · matrices : (order, 3, 3) float64 rotations, the identity first."""

    name: str
    matrices: np.ndarray

    def __len__(self) -> int:
        return len(self.matrices)

    @cached_property
    def quaternions(self) -> np.ndarray:
        """(order, 4) unit quaternions (w, x, y, z) of the rotations."""
        from scipy.spatial.transform import Rotation  # slow to load, and not needed without symmetry

        return np.roll(Rotation.from_matrix(self.matrices).as_quat(), 1, axis=1)

    def angular_distance(self, q1: np.ndarray, q2: np.ndarray) -> np.ndarray:
        """Degrees between poses given as (m, 4) unit quaternions, the smallest that the group allows."""
        closest = np.zeros(len(q2))
        for copy in self.copies(q2):  # |q1 · (q2 g)| is cos of half the angle
            closest = np.maximum(closest, np.abs(np.sum(q1 * copy, axis=-1)))
        return np.degrees(2 * np.arccos(np.clip(closest, 0, 1)))

    def copies(self, q: np.ndarray) -> Iterator[np.ndarray]:
        """(m, 4) unit quaternions times each rotation of the group: what images show as well."""
        w, x, y, z = np.moveaxis(np.asarray(q, np.float64), -1, 0)
        for a, b, c, d in self.quaternions:
            yield np.stack([w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c,
                            w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a], axis=-1)

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """(signed, rest): the rotations h that map a cubic grid onto itself, and c such that all are h c, each once.

        signed : (h, 3, 3) int64, a subgroup of signed permutations
        rest : (order / h, 3, 3) float64, identity first
        """
        nearest = np.rint(self.matrices)
        on_grid = np.abs(self.matrices - nearest).max(axis=(1, 2)) < 1e-9
        signed = nearest[on_grid].astype(np.int64)
        left, rest = list(self.matrices), []
        while left:
            rest.append(left[0])
            done = signed @ left[0]
            left = [g for g in left if np.abs(done - g).max(axis=(1, 2)).min() > 1e-6]
        return signed, np.array(rest)


@lru_cache(maxsize=None)
def point_group(name: str) -> PointGroup:
    """The group of that name (capitals or not).

    Raises
    ------
    UserError
        for a name that is not known, with the list of those that are.
    """
    wanted = name.strip().upper()
    match = re.fullmatch(r"([CD])0*([1-9]\d*)", wanted)
    if match and int(match[2]) <= _LARGEST_FOLD:
        fold = int(match[2])
        generators = [(fold, (0, 0, 1))] * (fold > 1) + ([(2, (1, 0, 0))] if match[1] == "D" else [])
        wanted = f"{match[1]}{fold}"
    elif wanted == "I" or wanted in _GENERATORS:
        generators = _GENERATORS["I2" if wanted == "I" else wanted]
    else:
        mirrored = re.fullmatch(r"CI|CS|[CD]\d+[HVD]|S\d+|T[DH]|OH|I\d?H", wanted) and not match
        reason = "it has mirrors, which no chiral particle has; " if mirrored else ""
        raise UserError(f"--symmetry {name}: {reason}choose one of {KNOWN}")
    return PointGroup(wanted, _closure([_turn(*generator) for generator in generators]))


def _turn(fold: int, axis: tuple[float, float, float]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    unit = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    return Rotation.from_rotvec(2 * np.pi / fold * unit).as_matrix()


def _closure(generators: list[np.ndarray]) -> np.ndarray:
    """All products of the generators, (order, 3, 3), each once."""
    found, fresh = [np.eye(3)], [np.eye(3)]
    if not generators:
        return np.array(found)
    from scipy.spatial.transform import Rotation

    while fresh:
        products, fresh = [a @ g for a in fresh for g in generators], []
        for product in products:
            if np.abs(np.array(found) - product).max(axis=(1, 2)).min() > 1e-6:
                # a little rounding would grow from product to product
                product = Rotation.from_matrix(product).as_matrix()
                found.append(product)
                fresh.append(product)
    return np.array(found)
