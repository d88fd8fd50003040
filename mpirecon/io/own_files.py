"""What HDF5 files that mpirecon wrote are, and what takes them: for messages about one given where another is read."""

from __future__ import annotations

from pathlib import Path

from mpirecon.errors import UserError


def own_file(path: Path) -> str | None:
    """As `own_format`, of an HDF5 file; None where it cannot be read."""
    from mpirecon.io.hdf5 import attributes_of, open_hdf5  # slow to load

    try:
        with open_hdf5(path, "HDF5 file") as file:
            return own_format(attributes_of(file, path).get("format"))
    except UserError:
        return None


def own_format(name: object) -> str | None:
    """What a file is whose attribute ``format`` is this, and what takes it; None for one of others."""
    # slow to load, and of no use but here
    from mpirecon.io import checkpoint, particle_layout, run_output

    return {
        particle_layout.FORMAT: "a particle file of mpirecon, which mpirecon.open reads, and which commands for "
        "particles (reconstruct, score, project …) take as it is",
        run_output.FORMAT: "the particle table of a run of mpirecon, which mpirecon.Result reads with its folder; "
        "mpirecon export writes its particles as a STAR file",
        checkpoint.FORMAT: "the checkpoint of a run of mpirecon, which continues with reconstruct --resume",
    }.get(str(name))
