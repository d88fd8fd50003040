"""The command line, while whose ranks open their files one of these is replaced: rank 1 meets the new one.

mpirun -n 2 python replaced.py particles|mask FOLDER reconstruct FOLDER/p.h5 -o … --mask FOLDER/mask.mrc
"""

import os
import shutil
import sys
import time
from pathlib import Path

import mpirecon.cli
import mpirecon.io.particle_file
import mpirecon.solvers.mask
from mpirecon.parallel.launcher import find_launcher

if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    first = find_launcher().rank == 0
    module, name = (
        (mpirecon.io.particle_file, "ParticleFile") if what == "particles" else (mpirecon.solvers.mask, "read_map")
    )
    read = getattr(module, name)

    def reads(path, *arguments):
        while not first and not (folder / "replaced").exists():
            time.sleep(0.01)
        found = read(path, *arguments)
        if first and not (folder / "replaced").exists():
            shutil.copy(path if what == "particles" else folder / "other.mrc", folder / "new")
            os.replace(folder / "new", path)
            (folder / "replaced").touch()
        return found

    setattr(module, name, reads)
    mpirecon.cli.main()
