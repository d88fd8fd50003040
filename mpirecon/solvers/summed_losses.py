"""The losses of an L2 iteration from its sums: all particles count, and none is visited for it.

Σ‖ŷ − p‖² = Σ‖ŷ‖² − 2 Re bᴴx + xᴴTx with the right-hand side b and the matrix T of a half set's normal equations, for
the map x of the same half (inside) or of the other (held out). Shells that count in the loss by their noise count in x.
"""

from __future__ import annotations

import numpy as np

from mpirecon.backend.bands import Bands
from mpirecon.kernels import fft
from mpirecon.parallel.comm import together
from mpirecon.solvers.base import Solver
from mpirecon.solvers.groups import half_map
from mpirecon.solvers.passes import Engine
from mpirecon.validate.fsc import filter_transform

#: fraction of the images' power in the map beyond which losses are those of the particles that were compared: what sums
#: say of it is right to half a percent, in boxes of few shells to two, which counts where images are clean
_CLEAN = 0.1


def summed_losses(engine: Engine, solver: Solver, bands: Bands) -> dict[str, float] | None:
    """As ``reported_losses`` has them, of all particles; None where sums do not tell. Collective.

    They do not where images have different noise spectra or weights, which sums do not keep apart; where they are
    multiplied by their CTF, for then |ŷ|² is measured image by image; and where they are clean.
    """
    power, backend = engine.found.shell_power, engine.backend
    if power is None or backend.premultiplied or (bands.whitened and engine.slab.noise_groups > 1):
        return None
    gain, inside = np.zeros(backend.plane.shells), bands.band >= 0
    gain[backend.plane.shell[inside]] = (bands.gain[0] / backend.plane.multiplicity)[inside]
    yy = float(gain @ power)
    (yp, pp), (yp_out, pp_out) = _explained(engine, solver, gain)
    if not yy > 0 or 2 * yp - pp > _CLEAN * yy:
        return None
    inside, outside = 1 + (pp - 2 * yp) / yy, 1 + (pp_out - 2 * yp_out) / yy
    unit = yy / (engine.comm.allreduce_scalar(int(engine.slab.valid.sum())) * bands.samples.sum())
    return {"loss": inside, "loss_l2": inside, "loss_heldout": outside, "loss_l2_heldout": outside,
            "loss_of_nothing": unit, "loss_l2_of_nothing": unit}  # fmt: skip


def _explained(engine: Engine, solver: Solver, gain: np.ndarray) -> np.ndarray:
    """Σ g Re conj(p)ŷ and Σ g|p|² of the particles against the map of their half, and against that of the other,
    (2, 2), on all ranks. Each half set's is found on a rank of its own."""
    comm, images, found = engine.comm, len(engine.symmetry.group) * engine.box**2, np.zeros((2, 2))
    roots = {half: (half - 1) % comm.size for half in (1, 2)}
    sums = {half: solver.sums_of(half, root) for half, root in roots.items()}
    sums = {half: folded for half, folded in sums.items() if folded is not None}
    with together(comm), engine.timings("solve"):
        here = {half: solver.equations(folded) for half, folded in sums.items()}
    for which in (1, 2):
        brought = [solver.references.bring(half_map(which), root) for root in sorted(set(roots.values()))]
        with together(comm), engine.timings("solve"):
            if here:
                transform = fft.rfftn(next(volume for volume in brought if volume is not None))
                on_data = filter_transform(transform.copy(), gain)
                on_map = filter_transform(transform, np.sqrt(gain))
                some, *others = here.values()
                for half, explained in zip(here, some.explained(on_data, on_map, *others)):
                    found[int(half != which)] += explained / images
    return comm.allreduce(found)
