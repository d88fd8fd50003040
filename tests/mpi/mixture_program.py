"""The mixture of poses on many ranks is the one on a single rank, whoever holds which particles."""

import sys
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator, get_communicator
from mpirecon.robust.evidence import Evidence, SmallErrors
from mpirecon.robust.pose_mixture import PoseMixture

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evidence import draw, draw_small_errors  # noqa: E402

comm = get_communicator()
ATTRIBUTES = ("keep_", "keep_interval_", "shares_", "gain_", "contrast_cv_", "separation_", "n_iter_")


def compare(drawn, cuts, grouped, keep=None, small=None, sample=None):
    m = len(drawn.kind)
    rows = np.arange(m)
    serial = PoseMixture(keep).fit(
        SerialCommunicator(), drawn.own, drawn.random, rows, drawn.group if grouped else None, small,
        sample=sample,
    )
    mine = slice(cuts[comm.rank], cuts[comm.rank + 1])
    part = drawn[mine]
    parallel = PoseMixture(keep).fit(
        comm, part.own, part.random, np.arange(len(part.kind)), part.group if grouped else None,
        None if small is None else SmallErrors(
            Evidence(small.best.t[mine], small.best.a[mine]), small.log_integral[mine], small.left
        ), sample=None if sample is None else sample[mine],
    )
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(parallel, name), getattr(serial, name), rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("posterior_", "score_", "contrast_", "contrast2_", "small_"):
        here, there = getattr(parallel, name), getattr(serial, name)[mine]
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-7, err_msg=name)
    assert parallel.separable_ == serial.separable_
    if not grouped:
        view = np.where(drawn.kind == 0, rows % 4, rows % 9)
        serial.share_by_view(view)
        parallel.share_by_view(view[mine])
        for name in ("posterior_", "score_"):
            here, there = getattr(parallel, name), getattr(serial, name)[mine]
            np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-7, err_msg=f"{name} by view")


even = np.arange(comm.size + 1) * 1200 // comm.size
even[1:-1] += 3
compare(draw(1200, 0.3, seed=1), even, grouped=False)
compare(draw(1200, 0.3, seed=1), even, grouped=False, keep=0.5)
compare(draw(1200, 0.4, strength=2, per_group=8, seed=2), even, grouped=True)  # groups are cut by the ranks' ends
one_has_all = np.array([0] + [1200] * comm.size)
compare(draw(1200, 0.3, seed=3), one_has_all, grouped=False)
compare(draw(1200, 0.4, strength=2, per_group=8, seed=4), one_has_all, grouped=True)

drawn, small, _ = draw_small_errors(1200, 0.3, 0.3, seed=5)
compare(drawn, even, grouped=False, small=small)
compare(drawn, even, grouped=False, small=small, sample=np.arange(1200) % 2 == 0)
compare(drawn, one_has_all, grouped=False, sample=np.arange(1200) % 2 == 0)

# what one rank sees, all refuse
drawn = draw(20, 0.3)[slice(0 if comm.rank else 20)]
if comm.rank == 0:
    drawn.own.t[3, 2] = np.nan
try:
    PoseMixture().fit(comm, drawn.own, drawn.random, np.arange(len(drawn.kind)))
    raise AssertionError("a NaN was accepted")
except UserError as error:
    assert "not a finite number" in str(error), error
empty = Evidence(np.zeros((0, 6)), np.zeros((0, 6)))
try:
    PoseMixture().fit(comm, empty, empty, np.arange(0))
    raise AssertionError("nothing was fitted")
except UserError as error:
    assert "nothing to fit" in str(error), error
if comm.rank == 0:
    print("ok", comm.size)
