"""Ranks that run one command line or program after another: commands.py FOLDER;
see tests/command_lines.py, which writes them.

Each rank reads its own pipe FOLDER/rank{rank}: a line of JSON each command, and nothing at the end. What the command
prints goes into FOLDER/{number}-{rank}.out and .err, its exit code into FOLDER/{number}-{rank}.code.
"""

import gc
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

from mpirecon.cli import run
from mpirecon.cli.streams import make_safe
from mpirecon.parallel.comm import get_communicator



def run_words(words: list[str]) -> int:
    """Run ``mpirecon WORDS…`` or ``python PROGRAM WORDS…``; → its exit code."""
    sys.argv = words
    if words[0] == "mpirecon":
        return run(words[1:])
    before = sys.path[:]
    try:
        runpy.run_path(words[0], run_name="__main__")
    except BaseException:  # the other ranks may wait for this one: as python -m mpi4py would
        traceback.print_exc()
        sys.stderr.flush()
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(1)
    sys.path[:] = before
    return 0


folder = Path(sys.argv[1])
rank = get_communicator().rank
make_safe()
environment = dict(os.environ)
with open(folder / f"rank{rank}", encoding="utf-8") as commands:
    for number, line in enumerate(commands):
        command = json.loads(line)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(command["folder"])
        for stream, name in ((1, "out"), (2, "err")):
            file = os.open(folder / f"{number}-{rank}.{name}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, stream)
            os.close(file)
        code = run_words(command["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(folder)
        gc.collect()  # an error's traceback may hold files open
        done = folder / f"{number}-{rank}.code"
        done.with_suffix(".part").write_text(str(code))
        done.with_suffix(".part").rename(done)
