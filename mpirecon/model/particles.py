"""ParticleSet: everything known about the particles except their pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.optics import CTF_DTYPE, check_ctf
from mpirecon.model.pose import Pose


#: fields that are there only where errors were simulated, or junk
TRUTH = (
    "pose_error", "true_quaternion", "true_shift", "true_defocus",
    "planted_orientation", "planted_offset", "planted_defocus", "planted_hand", "duplicate_of",
)  # fmt: skip


@dataclass
class ParticleSet:
    """Metadata of m particles of one box and pixel size.

    Parameters
    ----------
    box : int, pixels a side
    pixel_size : float, Å
    pose : Pose of m particles
    ctf : (m,) CTF_DTYPE
    half : (m,) uint8, each 1 or 2
    optics_group : (m,) int32
    ctf_premultiplied : bool
        the images are already multiplied by their CTF
    ctf_phase_flipped : bool
        the images are already multiplied by the sign of their CTF, so that |CTF| is left in them
    contrast : str
        ``"white"`` (protein bright, RELION's convention) or ``"black"``
    pose_error : (m,) bool or None
        True where a wrong pose (or junk) was simulated
    true_quaternion : (m, 4) float64 or None
    true_shift : (m, 2) float64, Å, or None
        None: the shifts are the true ones
    true_defocus : (m, 2) float64, Å, U and V, or None
        likewise
    planted_orientation, planted_offset, planted_defocus, planted_hand : (m,) bool or None
        which errors were simulated; a particle may have several, junk has none of them. None: none of that kind (or, in
        files of before kinds were distinguished, not known)
    duplicate_of : (m,) int64 or None
        row of the file whose copy a particle is, or −1
    ids : (m,) int64
        row of each particle in the particle file

    Raises
    ------
    UserError
        when lengths disagree or a value is out of range; the row is named.
    """

    box: int
    pixel_size: float
    pose: Pose
    ctf: np.ndarray
    half: np.ndarray
    optics_group: np.ndarray
    ctf_premultiplied: bool = False
    ctf_phase_flipped: bool = False
    contrast: str = "white"
    pose_error: np.ndarray | None = None
    true_quaternion: np.ndarray | None = None
    true_shift: np.ndarray | None = None
    true_defocus: np.ndarray | None = None
    planted_orientation: np.ndarray | None = None
    planted_offset: np.ndarray | None = None
    planted_defocus: np.ndarray | None = None
    planted_hand: np.ndarray | None = None
    duplicate_of: np.ndarray | None = None
    ids: np.ndarray = field(default=None)

    def __post_init__(self) -> None:
        m = len(self.pose)
        self.ids = np.arange(m, dtype=np.int64) if self.ids is None else np.asarray(self.ids, np.int64)
        self.half = np.asarray(self.half, np.uint8)
        self.optics_group = np.asarray(self.optics_group, np.int32)
        if self.ctf.dtype != CTF_DTYPE:
            raise UserError(f"ParticleSet: ctf must have dtype CTF_DTYPE, got {self.ctf.dtype}")
        for name in ("ctf", "half", "optics_group", "ids", *TRUTH):
            value = getattr(self, name)
            if value is not None and len(value) != m:
                raise UserError(f"ParticleSet: {name} has {len(value)} rows for {m} poses")
        if not np.isin(self.half, (1, 2)).all():
            row = int(np.flatnonzero(~np.isin(self.half, (1, 2)))[0])
            raise UserError(f"ParticleSet: half of particle {row} is {self.half[row]}, expected 1 or 2")
        if self.contrast not in ("white", "black"):
            raise UserError(f"ParticleSet: contrast is {self.contrast!r}, expected 'white' or 'black'")
        if self.ctf_premultiplied and self.ctf_phase_flipped:
            raise UserError("ParticleSet: images are ctf_premultiplied or ctf_phase_flipped, not both: after "
                            "multiplication by the CTF no sign is left to flip")
        check_ctf(self.ctf)

    def __len__(self) -> int:
        return len(self.pose)

    def __getitem__(self, rows) -> ParticleSet:
        """The particles of an index array or slice, with their ids."""

        known = {name: getattr(self, name) for name in TRUTH}
        return replace(
            self,
            pose=self.pose[rows],
            ctf=self.ctf[rows],
            half=self.half[rows],
            optics_group=self.optics_group[rows],
            ids=self.ids[rows],
            **{name: None if values is None else values[rows] for name, values in known.items()},
        )
