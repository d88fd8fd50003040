"""Poses and CTFs that a script gives and that cannot be what they seem: what an import says of a table, of arrays."""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.plausible_rows import (
    ANGLES_TOLD, FEW, FLAT, MICROMETRES, NANOMETRES, PIXELS, SMALLEST, TURN, largest_defocus, outside_images, unaligned,
    without_ctf,
)  # fmt: skip
from mpirecon.model import ParticleSet, Pose

_PLATE = np.radians(20.0)  # phase shifts of phase plates, with which images are taken close to focus


def implausible(about: ParticleSet) -> list[str]:
    """What is odd about particles that arrays were given for, a sentence each.

    Raises
    ------
    UserError
        where no right map could come of the numbers, as they stand.
    """
    if not PIXELS[0] <= about.pixel_size <= PIXELS[1]:
        raise UserError(f"Particles: pixel_size is {about.pixel_size:g} Å, outside {PIXELS[0]:g} … {PIXELS[1]:g} Å; is "
                        "it in another unit? Give it in Å")
    return [*implausible_shifts("Particles", about.pose, np.arange(len(about)), about.box, about.pixel_size),
            *_defoci(about.ctf), *_views(about.pose)]


def implausible_shifts(what: str, pose: Pose, rows: np.ndarray, box: int, pixel_size: float) -> list[str]:
    """What is odd about the shifts of poses that are given for some rows; UserError, which begins with `what`, where
    most put the particle outside its image, in which nothing of it is seen."""
    beyond = outside_images(pose.shift, box * pixel_size)
    if not beyond.any() or box < SMALLEST:
        return []
    most = np.abs(pose.shift).max()
    said = (f"{what}: shift puts {beyond.sum()} of {len(pose)} particles outside their images (up to {most:.4g} Å from "
            f"the centre of {box * pixel_size:.4g} Å; first: particle {rows[beyond.argmax()]}); is it in another unit? "
            "Give the particle's position (x, y) relative to the image's centre, in Å")
    if 2 * beyond.sum() > len(pose):
        raise UserError(said)
    return [said]


def _defoci(ctf: np.ndarray) -> list[str]:
    size = largest_defocus(ctf)
    known, small = size > 0, (size > 0) & (size < MICROMETRES)
    none = ~known & ~without_ctf(ctf)
    said = []
    if none.any():
        said.append(f"Particles: the defocus is 0 for {none.sum()} of {len(ctf)} particles (first: particle "
                    f"{none.argmax()}); was it ever estimated? Where the images have no CTF, leave ctf out")
    if not known.any():
        return said
    between = f"{size[known].min():.4g} to {size[known].max():.4g}"
    if 2 * small.sum() > known.sum():
        raise UserError(f"Particles: defocus_u and defocus_v are in Å, but {small.sum()} of {len(ctf)} particles have "
                        f"less than {MICROMETRES:g} Å ({between} in all; first: particle {small.argmax()}): this looks "
                        "like µm. Multiply them by 10000, or leave ctf out where the images have none")
    if small.any():
        said.append(f"Particles: the defocus is below {MICROMETRES:g} Å for {small.sum()} of {len(ctf)} particles "
                    f"(first: particle {small.argmax()}); was it ever estimated, and in Å?")
    near, plate = known & (size < NANOMETRES), np.abs(ctf["phase_shift"]) > _PLATE
    if 2 * near.sum() > known.sum() and 2 * plate.sum() < len(ctf):
        most = "nearly all" if near.sum() > 0.95 * known.sum() else "most"
        said.append(f"Particles: {most} defoci are below {NANOMETRES:g} Å ({between}), unusually close to focus; where "
                    "they are in nm, multiply them by 10")
    return said


def _views(pose: Pose) -> list[str]:
    """Sentences about views that give no map."""
    m = len(pose)
    if m < FEW:
        return []
    said = []
    rot, tilt, psi = pose.euler().T
    turn = np.abs((rot + psi + 180) % 360 - 180)
    if ANGLES_TOLD < tilt.max() <= np.pi + 0.01 and turn.max() <= 2 * TURN:
        # no error, as of tables: images may be projected in views that are so close
        said.append(f"Particles: Euler angles of pose are in degrees, but no tilt of {m} particles is more than "
                    f"{np.pi:.4g}, and no rot or psi more than {2 * np.pi:.4g}: this looks like radians, and no map "
                    "can be made of views so close. Give Pose.from_euler degrees (numpy.degrees)")
    axis = pose.matrices()[:, 2]
    away = 1.0 - float(np.linalg.eigvalsh(axis.T @ axis / m)[-1])  # mean sin² of the angle between a view and the mean
    if away < np.sin(FLAT) ** 2:
        said.append(f"Particles: by their poses all {m} particles are seen from nearly one direction (within "
                    f"{np.degrees(np.sqrt(max(away, 0))):.2g} degrees of it, rms): no 3-D map can be made of them")
    none = unaligned(pose.quaternion)
    if none.sum() > max(1, m // 1000):
        said.append(f"Particles: the pose of {none.sum()} of {m} particles is exactly no rotation (first: particle "
                    f"{none.argmax()}); were they ever aligned? Leave them out, or have them found and left out: "
                    "--loss posterior")
    return said
