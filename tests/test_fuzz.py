"""Whatever damage a file has: one sentence that names it, or a right result;
never a traceback, a hang, or giant memory.

MPIRECON_FUZZ=2000 tries so many seeds of each kind, and MPIRECON_FUZZ_FROM begins at another seed.
"""

import collections
import os
import traceback

import pytest
from fuzzing import KINDS, prepare, try_one

SEEDS = int(os.environ.get("MPIRECON_FUZZ", 24))
FIRST = int(os.environ.get("MPIRECON_FUZZ_FROM", 0))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_end_in_a_sentence_or_a_right_result(name, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("MPIRECON_SITE", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    kind = KINDS[name]
    good = prepare(name, shared, tmp_path / "files") if (tmp_path / "files").mkdir() is None else None
    kind.read(good)  # undamaged
    ends = collections.Counter()
    failed = {}
    for seed in range(FIRST, FIRST + max(4, round(SEEDS * kind.weight))):
        try:
            ends[try_one(kind, good, seed)] += 1
        except BaseException as error:  # all are shown together
            if isinstance(error, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(error.__traceback__)
            where = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in last
                     if "mpirecon" in frame.filename][-2:]
            failed.setdefault(f"{type(error).__name__}: {str(error)[:160]} at {' > '.join(where)}", []).append(seed)
    print(name, dict(ends))
    told = "\n".join(f"{text}: {len(seeds)} seeds, {seeds[:3]}" for text, seeds in failed.items())
    assert not failed, f"{ends}\n{told}"
    assert ends["refused"] or sum(ends.values()) < 20, "no damage was ever noticed"
