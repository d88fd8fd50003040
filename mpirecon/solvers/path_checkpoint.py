"""What a checkpoint of a path holds beside its records: which path may resume it, and the arrays of its walks."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from mpirecon.io.checkpoint import Checkpoint
from mpirecon.io.run_kinds import PATH
from mpirecon.solvers.walk import Walk, Walked


def path_identity(walk: Walk) -> dict:
    """What must be the same for a path to be resumed. Collective."""
    found = walk.run.identity
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(walk.options).items()}
    options["steps"] = list(walk.fractions)
    return {**found, "kind": PATH.kind, "options": {**found["options"],
                                                    **{_SPELLED.get(n, n): v for n, v in options.items()}}}


#: options of a path whose names a Config has for something else
_SPELLED = {"schedule": "path_schedule"}


def walk_arrays(prefix: str, walked: Walked) -> dict[str, np.ndarray]:
    """What is kept of a walk, by name."""
    found = {
        "distance": walked.distance,
        "kept_to": walked.kept_to,
        **{f"found_{name}": v for name, v in walked.found.items()},
    }
    return {prefix + name: values for name, values in found.items() if values is not None}


def restored_walk(prefix: str, checkpoint: Checkpoint) -> Walked:
    """The arrays of a walk as a checkpoint has them."""
    if f"{prefix}kept_to" not in checkpoint:
        return Walked()
    found = {name: checkpoint.array(f"{prefix}found_{name}") for name in ("distance", "sigma", "yp", "pp")}
    distance, kept_to = checkpoint.array(f"{prefix}distance"), checkpoint.array(f"{prefix}kept_to")
    return Walked(distance=distance, kept_to=kept_to, found=found)
