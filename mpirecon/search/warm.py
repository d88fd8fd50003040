"""Kernels of the pose search compiled before a run asks for them: each of these searches a little in noise.

What searches is imported when one of them is called: every run loads this module, and most search nothing.
"""

from __future__ import annotations

import numpy as np

from mpirecon.model.symmetry import point_group
from mpirecon.operators.half_plane import HalfPlane

#: images, the particle in them, the finest shell that is compared, and the width of offsets
_BOX, _DIAMETER, _FINEST, _OFFSETS = 16, 10.0, 5, 0.5


def _noise() -> tuple:
    """(map, plane, data, on_cross, on_model) of two images."""
    rng, plane = np.random.default_rng(0), HalfPlane.of(_BOX)
    data = rng.standard_normal((2, len(plane), 2)).astype(np.float32).view(np.complex64)[..., 0]
    weight = np.ones((2, len(plane)), np.float32)
    return rng.standard_normal((_BOX,) * 3).astype(np.float32), plane, data, weight, weight


def everywhere() -> None:
    from mpirecon.search.pose_search import PoseSearch

    volume, plane, *images = _noise()
    search = PoseSearch(volume, plane, _DIAMETER, _FINEST, point_group("C1"), _OFFSETS)
    search.search(*images, np.tile([1.0, 0, 0, 0], (2, 1)))


def nearby() -> None:
    from mpirecon.search.acceptance import Amplitudes
    from mpirecon.search.local import LOCAL, Neighbourhood

    volume, plane, *images = _noise()
    near = Neighbourhood(volume, plane, _DIAMETER, _FINEST, True)
    image = (np.ascontiguousarray(part[0, near.band.order]) for part in images)
    near.look(*image, np.array([1.0, 0, 0, 0]), Amplitudes(1.0, 0.2), np.zeros(1, LOCAL)[0])


def of_groups() -> None:
    from mpirecon.search.group_search import GroupSearch

    volume, plane, *images = _noise()
    search = GroupSearch(volume, plane, _DIAMETER, _FINEST, point_group("C1"), _OFFSETS)
    search.search(*images, np.tile(np.eye(3), (2, 1, 1)))


def steps(refines: bool, groups: bool) -> tuple[str, ...]:
    """Names of those of these that compile what a search takes, for ``backend.warm.compile_once``.

    refines : whether poses are moved near the given ones · groups : whether images are searched together
    """
    names = ["of_groups" if groups else "everywhere"] + ["nearby"] * refines
    return tuple(f"{__name__}:{name}" for name in names)
