"""The command line, one rank of which fails as told once the run has a checkpoint, while it reads images.

mpirun -n 2 python failing.py stopped 1 FOLDER reconstruct particles.h5 -o FOLDER/out …
"""

import os
import signal
import sys
import time
from pathlib import Path

import mpirecon.cli
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.launcher import find_launcher

FAILURES = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "stuck": lambda: time.sleep(3600),
    "defect": lambda: {}["a defect"],
}

if __name__ == "__main__":
    kind, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    del sys.argv[1:4]
    read = ParticleFile.images

    def images(self, rows):
        if (folder / "out" / "checkpoint.h5").exists():
            (folder / "failed").touch()
            FAILURES[kind]()
        return read(self, rows)

    if find_launcher().rank == rank:
        ParticleFile.images = images
    mpirecon.cli.main()
