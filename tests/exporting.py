"""Runs as exports take them, and their exports by the command."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from mpirecon.cli.export import command
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_output import write_particle_table, write_summary

KEPT = np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)


def finish(particles, folder, kept=None, **changes):
    """A run folder as reconstruct leaves it, of what export reads; returns the folder."""
    with ParticleFile(particles) as file:
        m, halves, found = len(file), file.halves(), file.metadata()
        about = {"file": str(file.path), "count": m, "box": file.box, "pixel_size": file.pixel_size}
    kept = np.resize(KEPT, m) if kept is None else kept
    columns = {
        "id": np.arange(m), "half": halves, "kept": kept, "weight": np.where(kept, 0.5 + np.arange(m) / (8 * m), 0.0),
        "score": np.arange(m) / 3, "distance": -np.arange(m) / 7, "posterior": np.full(m, np.nan),
        "sigma": np.ones(m), "scale": np.ones(m),
    }
    if found.pose_error is not None:
        columns["pose_error"] = found.pose_error
    folder.mkdir(exist_ok=True)
    columns = {name: v for name, v in {**columns, **changes}.items() if v is not None}
    write_particle_table(folder / "particles.h5", columns, {})
    write_summary(folder / "summary.json", {"particles": about})
    return folder


def export(folder, *args) -> str:
    """What the command printed."""
    result = CliRunner().invoke(command, [str(folder), *map(str, args)])
    if result.exception:
        raise result.exception
    return result.output


def refused(folder, message, *args):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(UserError, match=message):
        export(folder, *args)
    assert sorted(folder.parent.rglob("*")) == before
