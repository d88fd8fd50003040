"""Particles of different boxes and pixel sizes in one file: how each image becomes one of a common box and pixel size.

An image is cut or padded to nearly the common field of view (an even number of pixels), then resampled to the common
box. What is left of the difference in pixel size, at most half a pixel of the field of view, is not interpolated: it
goes into the magnification of the optics group, where slices and CTFs take it up exactly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.import_options import COMMON
from mpirecon.io.particle_table import ParticleTable
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.pose import Pose
from mpirecon.operators.background import Background
from mpirecon.operators.resample import resample
from mpirecon.parallel.comm import Communicator, run_together

#: images whose field of view differs by less than this are neither cut nor padded; their scale alone is corrected
_NEARLY = 0.02


class Rescaling:
    """The common box and pixel size, and for each particle of this rank's slab what its image must go through.

    wanted : COMMON or (box, Å)
    stack_boxes : pixels a side of each stack. Collective.

    box : int
    pixel_size : Å
    kinds : (box, Å) of the images there are
    inner, factor : of each kind, the pixels that are resampled to `box`, and the common pixel over the one that results
    notes : sentences for the user
    """

    def __init__(self, comm: Communicator, table: ParticleTable, stack_boxes: np.ndarray, wanted) -> None:
        run_together(comm, lambda: _check_sizes(table, stack_boxes))
        mine = np.column_stack([stack_boxes[table.stack], np.round(table.pixel_sizes, 6)])
        some, which, counts = np.unique(mine, axis=0, return_inverse=True, return_counts=True)
        total: dict[tuple, int] = {}
        for rank in comm.allgather(list(zip(map(tuple, some.tolist()), counts.tolist()))):
            for kind, count in rank:
                total[kind] = total.get(kind, 0) + count
        self.kinds = [(int(box), float(size)) for box, size in sorted(total)]
        most = max(sorted(total), key=lambda kind: (total[kind], kind[1]))
        self.box, self.pixel_size = (int(most[0]), float(most[1])) if wanted == COMMON else wanted
        self.inner = [self._inner(*kind) for kind in self.kinds]
        resulting = [size * inner / self.box for (_, size), inner in zip(self.kinds, self.inner)]
        self.factor = self.pixel_size / np.array(resulting)
        number = np.array([self.kinds.index((int(box), float(size))) for box, size in some])
        self.kind = number[which.reshape(-1)]
        self.notes = [self._note(i, total[kind]) for i, kind in enumerate(sorted(total))]
        self.notes = [note for note in self.notes if note]
        self._of_group = self._groups(comm, table)

    def _inner(self, box: int, size: float) -> int:
        """Pixels of an image that cover the common field of view."""
        field = self.box * self.pixel_size
        if abs(box * size / field - 1) < _NEARLY:
            return box
        return max(2, 2 * round(field / size / 2))

    def _note(self, i: int, count: int) -> str | None:
        (box, size), inner = self.kinds[i], self.inner[i]
        if (box, inner) == (self.box, self.box) and abs(self.factor[i] - 1) < 1e-9:
            return None
        how = f"padded to {inner} pixels and " if inner > box else f"cut to {inner} pixels and " if inner < box else ""
        how += f"resampled to {self.box}" if inner != self.box else "kept unchanged"
        text = f"{count} images of {box} pixels of {size:g} Å are {how}; scaled by {self.factor[i]:.5f} in their slices"
        if inner < self.box:
            text += (f"; they say nothing beyond their Nyquist, {2 * size:g} Å (scores of all images compare fairly "
                     f"with reconstruct --max-resolution {2 * size:g})")
        return text

    def _groups(self, comm: Communicator, table: ParticleTable) -> dict[int, int]:
        """Optics group → kind of its images; UserError for a group of several."""
        mine = {(int(g), int(k)) for g, k in np.unique(np.column_stack([table.optics_group, self.kind]), axis=0)}
        found: dict[int, int] = {}
        for group, kind in sorted(pair for rank in comm.allgather(mine) for pair in rank):
            if found.setdefault(group, kind) != kind:
                (a, b), (c, d) = self.kinds[found[group]], self.kinds[kind]
                raise UserError(f"{table.path}: optics group {group} has images of {a} pixels of {b:g} Å and of {c} "
                                f"pixels of {d:g} Å; each size needs its own group")
        return found

    def apply(self, table: ParticleTable) -> np.ndarray:
        """Bring a table's pixel size, shifts and magnifications to the common size; returns the Å per pixel of each of
        the table's optics groups before the last factor, (g,).
        """
        factor = self.factor[self.kind][:, None]
        # in pixels of the image, reported in common ones
        table.pose = Pose(table.pose.quaternion, table.pose.shift * factor)
        known = table.aberrations or Aberrations.none(np.array(sorted(self._of_group), np.int32))
        of_group = np.array([self.factor[self._of_group[g]] if g in self._of_group else 1.0
                             for g in known.group.tolist()])
        table.aberrations = replace(
            known, magnification=known.magnification * of_group[:, None, None], mtf=self._ends(known.group)
        )
        table.pixel_size = self.pixel_size
        return self.pixel_size / of_group

    def _ends(self, groups: np.ndarray) -> np.ndarray:
        """(g, ·) float64, 1 at the Fourier pixels that each group's images hold, and 0 beyond;
        empty where all hold all.

        Without it coarser images would claim that a finer map has no signal there.
        """
        inner = [self.inner[self._of_group[g]] if g in self._of_group else self.box for g in groups.tolist()]
        if min(inner) >= self.box:
            return np.zeros((len(groups), 0))
        reach = [self.box if n >= self.box else (n - 1) // 2 for n in inner]
        radius = np.arange(self.box // 2 + 2)
        return np.where(radius[None] <= np.array(reach)[:, None], 1.0, 0.0)

    def images(self, kind: int, images: np.ndarray) -> np.ndarray:
        """Images of a kind → (m, box, box) float32 without their backgrounds;
        constant ones stay constant, so that they are found."""
        if self.inner[kind] == self.kinds[kind][0] == self.box:
            return images
        level = Background(images.shape[-1]).without(images)  # a ramp is a jump at the edge, which would ring
        out = resample(level, self.inner[kind], self.box)
        flat = images.min(axis=(1, 2)) == images.max(axis=(1, 2))
        out[flat] = images[flat][:, :1, :1]
        return out


def _check_sizes(table: ParticleTable, stack_boxes: np.ndarray) -> None:
    """Refuse a table that says other boxes than its stacks have."""
    if table.image_sizes is None:
        return
    wrong = table.image_sizes != stack_boxes[table.stack]
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(f"{table.describe(row)}: the table says {table.image_sizes[row]:g} pixels a side, the stack "
                        f"has {stack_boxes[table.stack[row]]}; is it the stack that belongs to this file?")
