"""What scripts ask of a run: its Config, and where its particles are."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from mpirecon.api.arguments import check_names, is_path
from mpirecon.api.given_mask import given_mask
from mpirecon.api.particles import Particles
from mpirecon.api.reading import imported
from mpirecon.api.reading import open as open_particles
from mpirecon.api.scratch import Scratch
from mpirecon.batch.units import parse_memory
from mpirecon.errors import UserError
from mpirecon.io.formats import is_table
from mpirecon.io.given_weights import ARRAY
from mpirecon.io.reading import READING, refuse_reading
from mpirecon.kinds import AnyPath, of_kind, shown
from mpirecon.model.arrays import Volume as PlainVolume
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.parallel.console import Console
from mpirecon.robust import distances, losses
from mpirecon.solvers.config import OF_SCRIPTS, Config
from mpirecon.solvers.meaning import given_distance, given_loss

#: name under which a loss without a usable name of its own is known
_UNNAMED = "own"


def configuration(particles, scratch: Scratch, comm: Communicator, *, loss, mask=None, weights=None,
                  distance="explained", **options) -> Config:
    """The Config of a script's options, the same on all ranks; a mask that is no file is written to one. Collective."""
    check_names("a reconstruction", options, [field.name for field in fields(Config) if field.name not in OF_SCRIPTS])
    run_together(comm, lambda: _check_kinds(loss, distance, mask))
    if isinstance(memory := options.get("memory"), str):
        options = {**options, "memory": 0 if memory == "0" else parse_memory(memory)}
    mask, called = given_mask(mask, particles, scratch, comm)

    def made() -> Config:
        meant, named = {}, {"loss": by_name(loss), "distance": distance}
        if not isinstance(named["loss"], str):
            named["loss"], meant["loss"] = (name := _name_of(loss)), given_loss(name, loss)
        if not isinstance(distance, str):
            named["distance"], meant["distance"] = distance.name, given_distance(distance)
        named |= {"weights": ARRAY if unnamed(weights) is not None else weights, "mask_name": called}
        return Config(**{"seed": 1, "mask": mask, "meant": meant, **named, **options})

    return run_together(comm, made)


def _check_kinds(loss, distance, mask) -> None:
    """Raise UserError where one of these is nothing that it may be."""
    if not (isinstance(loss, str) or callable(loss)):
        raise UserError(f"loss={shown(loss)}: expected the name of a loss, a function of the distances, or a class of "
                        "losses")
    if not isinstance(distance, (str, distances.Distance)):
        raise UserError(f"distance={shown(distance)}: expected the name of a distance, or an object of "
                        "mpirecon.distances.Distance")
    if not isinstance(mask, (PlainVolume, np.ndarray)):
        of_kind(mask, AnyPath | None, "mask=")


def refuse_unmade_mask(config: Config, postprocess: bool) -> None:
    """Raise UserError where the final map's mask is to be made of itself, and nothing is to be made of it."""
    if config.mask == "auto" and not postprocess:
        raise UserError("--mask auto makes its mask after the reconstruction, which --no-postprocess leaves out")


def unnamed(weights) -> np.ndarray | None:
    """Weights that are none by name."""
    return None if isinstance(weights, str) else weights


def by_name(loss):
    """A loss that is given as its class, by the name that it is built in under; others as they are."""
    return losses.BUILT_IN.get(loss, loss) if isinstance(loss, type) else loss


def _name_of(loss) -> str:
    name = getattr(loss, "__name__", _UNNAMED)
    return _UNNAMED if name == "<lambda>" or name in losses.LOSSES else name


def particles_of(given) -> Particles:
    """Particles of what was given as such: their file's path will do."""
    return open_particles(given) if is_path(given) else given


def source_of(given, options: dict) -> tuple[Path, dict]:
    """(file of the particles, how it is read if it is a table); takes the second out of `options`."""
    if not (is_path(given) or isinstance(given, Particles)):
        raise UserError(f"particles={shown(given)}: expected Particles, or the path of a particle file, STAR file or "
                        ".cs file; Particles(images, pose, ctf, pixel_size=…) makes them of arrays")
    if not is_path(given):
        given.refuse_replaced()
    reading = {name: options.pop(name) for name in READING if name in options}
    return Path(given) if is_path(given) else given.path, reading


def read_particles(given, comm: Communicator, options: dict, console: Console | None = None) -> Particles:
    """Those that a script gave, a table's linked in a temporary file; takes how it is read out of `options`."""
    path, reading = run_together(comm, lambda: source_of(given, options))
    if is_path(given) and run_together(comm, lambda: is_table(given)):
        return imported(path, comm, console, **{"seed": options.get("seed", 1), **reading})
    refuse_reading(path, reading)
    return run_together(comm, lambda: particles_of(given))
